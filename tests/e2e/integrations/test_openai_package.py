"""The `openai` package: structured output and tools, beyond what the other end-to-end tests do with it."""

from __future__ import annotations

import json

from tests.e2e.questions import MODEL, OSLO, PARIS, WEATHER, City


def test_an_answer_is_parsed_into_a_model(sync_openai):
    answer = sync_openai.chat.completions.parse(
        model=MODEL,
        messages=PARIS,
        response_format=City,
        temperature=0,
        max_tokens=200,
    )
    assert isinstance(answer.choices[0].message.parsed, City)


async def test_an_answer_is_parsed_while_it_is_streamed(async_openai):
    async with async_openai.chat.completions.stream(
        model=MODEL,
        messages=PARIS,
        response_format=City,
        temperature=0,
        max_tokens=200,
    ) as stream:
        kinds = {event.type async for event in stream}
        answer = await stream.get_final_completion()
    assert {"content.delta", "content.done"} <= kinds
    assert isinstance(answer.choices[0].message.parsed, City)


def test_a_tool_loop_ends_with_an_answer(sync_openai):
    messages = [*OSLO]
    first = sync_openai.chat.completions.create(
        model=MODEL, messages=messages, tools=[WEATHER], temperature=0
    ).choices[0]
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Oslo"})

    messages += [
        first.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 7, "sky": "rain"}'},
    ]
    last = sync_openai.chat.completions.create(
        model=MODEL, messages=messages, tools=[WEATHER], temperature=0, max_tokens=60
    ).choices[0]
    assert last.finish_reason == "stop"
    assert last.message.content


async def test_calls_are_streamed(async_openai):
    stream = await async_openai.chat.completions.create(
        model=MODEL, messages=OSLO, tools=[WEATHER], temperature=0, stream=True
    )
    pieces = [p async for chunk in stream for c in chunk.choices for p in c.delta.tool_calls or ()]
    assert pieces[0].function.name == "get_weather"
    arguments = "".join(piece.function.arguments or "" for piece in pieces)
    assert json.loads(arguments) == {"city": "Oslo"}


def test_several_answers_are_given(sync_openai):
    answer = sync_openai.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Tell me a short story."}],
        n=3,
        temperature=1,
        seed=1,
        max_tokens=20,
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3
