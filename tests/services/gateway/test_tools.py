"""Tools offered to the model, and the calls that it makes."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.services.gateway.fake_tokenizer import MODEL, Answer, FakeTokenizer, Response
from tokenwire.v1 import generation_pb2, tokenizer_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASK = [{"role": "user", "content": "weather in Oslo and Rome?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Now.", "parameters": PARAMETERS}}
]
Delta = tokenizer_pb2.ToolCallDelta


@pytest.fixture(autouse=True)
def two_calls(tokenizer: FakeTokenizer) -> None:
    """The model thinks, then calls the weather twice."""
    pieces = [
        Delta(index=0, id="call_a", name="weather", arguments_delta=""),
        Delta(index=0, arguments_delta='{"city":'),
        Delta(index=0, arguments_delta='"Oslo"}'),
        Delta(index=1, id="call_b", name="weather", arguments_delta='{"city":"Rome"}'),
    ]
    deltas = [Response(reasoning_delta="two cities"), *(Response(tool_calls=[piece]) for piece in pieces)]
    tokenizer.answer = lambda request: Answer(deltas, generation_pb2.FINISH_REASON_TOOL_CALLS)


async def test_calls_are_part_of_the_message(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    assert [(call.id, call.type) for call in choice.message.tool_calls] == [
        ("call_a", "function"),
        ("call_b", "function"),
    ]
    arguments = [json.loads(call.function.arguments) for call in choice.message.tool_calls]
    assert arguments == [{"city": "Oslo"}, {"city": "Rome"}]
    assert choice.message.model_extra == {"reasoning_content": "two cities", "reasoning": "two cities"}


async def test_calls_are_streamed_in_pieces(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS, stream=True)
    choices = [choice async for chunk in stream for choice in chunk.choices]
    assert choices[-1].finish_reason == "tool_calls"
    pieces = [piece for choice in choices for piece in choice.delta.tool_calls or ()]
    named = [piece for piece in pieces if piece.id]
    assert [(piece.index, piece.function.name) for piece in named if piece.function] == [
        (0, "weather"),
        (1, "weather"),
    ]
    for index, city in (0, "Oslo"), (1, "Rome"):
        arguments = [p.function.arguments or "" for p in pieces if p.index == index and p.function]
        assert json.loads("".join(arguments)) == {"city": city}


async def test_the_tools_are_offered_as_they_were_described(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer
) -> None:
    await client.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS, tool_choice="none")
    chat = tokenizer.requests[0].chat
    assert (chat.tools[0].name, chat.tools[0].description) == ("weather", "Now.")
    assert json.loads(chat.tools[0].parameters_json) == PARAMETERS
    assert chat.tool_choice == "none"


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("required", "required"),
        ({"type": "function", "function": {"name": "weather"}}, "weather"),
    ],
)
async def test_what_must_be_called_reaches_the_tokenizer(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer, choice: Any, sent: str
) -> None:
    tools: list[Any] = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    await client.chat.completions.create(
        model=MODEL, messages=ASK, tools=tools, tool_choice=choice, parallel_tool_calls=False
    )
    chat = tokenizer.requests[0].chat
    assert chat.tool_choice == sent
    assert chat.tools[0].strict
    assert chat.HasField("parallel_tool_calls")
    assert not chat.parallel_tool_calls


async def test_a_calls_first_piece_has_its_name_and_the_others_its_arguments(
    client: openai.AsyncOpenAI,
) -> None:
    """As OpenAI streams them, one piece a chunk, whatever arrived together."""
    stream = await client.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS, stream=True)
    by_call: dict[int, list[dict[str, Any]]] = {}
    async for chunk in stream:
        for piece in chunk.choices[0].delta.tool_calls or []:
            assert len(chunk.choices[0].delta.tool_calls or ()) == 1
            by_call.setdefault(piece.index, []).append(piece.model_dump(exclude_unset=True))
    for index, call_id in (0, "call_a"), (1, "call_b"):
        first, *others = by_call[index]
        function = {"name": "weather", "arguments": ""}
        assert first == {"index": index, "id": call_id, "type": "function", "function": function}
        assert others
        assert all(set(other) == {"index", "function"} for other in others)
        assert all(set(other["function"]) == {"arguments"} for other in others)


async def test_the_effort_to_think_reaches_the_tokenizer(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer
) -> None:
    await client.chat.completions.create(model=MODEL, messages=ASK, reasoning_effort="low")
    assert tokenizer.requests[0].chat.reasoning_effort == "low"
