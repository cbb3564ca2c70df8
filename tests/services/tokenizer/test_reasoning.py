"""Reasoning and calls of a model whose control tokens are special, through the whole service."""

from __future__ import annotations

import json

import pytest
from tokenizers import AddedToken, Tokenizer

from tests.services.tokenizer.conftest import CHATML, saying, start_service
from tests.services.tokenizer.fake_engine import FakeEngine
from tokenwire.v1 import generation_pb2
from tokenwire.v1.tokenizer_pb2 import (
    ChatMessage,
    ChatPrompt,
    TokenizerGenerateRequest,
    TokenizerGenerateResponse,
    ToolDefinition,
)
from tokenwire_services.tokenizer.parsers import harmony


@pytest.fixture
def special(tokenizer: Tokenizer, engine: FakeEngine) -> Tokenizer:
    """The engine's tokenizer, with Harmony's tokens and the thinking tags as special ones."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    marks = [*harmony.MARKS, "<think>", "</think>", "<|other|>"]
    copy.add_special_tokens([AddedToken(mark, normalized=False) for mark in marks])
    engine.files["tokenizer.json"] = copy.to_str().encode()
    engine.info.vocab_size = copy.get_vocab_size()
    return copy


async def answer(
    engine: FakeEngine, template: str, **chat: object
) -> tuple[str, str, list[TokenizerGenerateResponse]]:
    """Text, reasoning and all messages."""
    engine.files["chat_template.jinja"] = template.encode()
    prompt = ChatPrompt(messages=[ChatMessage(role="user", content="Hi")], **chat)  # type: ignore[arg-type]
    responses: list[TokenizerGenerateResponse] = []
    async for service in start_service(engine):
        responses = [each async for each in service.stub.Generate(TokenizerGenerateRequest(chat=prompt))]
    text = "".join(each.text_delta for each in responses)
    return text, "".join(each.reasoning_delta for each in responses), responses


async def test_thoughts_come_apart_from_the_answer(engine: FakeEngine, special: Tokenizer) -> None:
    engine.reply = saying(special, "<think>Well.<|other|></think>\n\nHello.<|other|>")
    text, reasoning, _ = await answer(engine, CHATML + "{# </think> #}")
    assert (text, reasoning) == ("Hello.", "Well.")


async def test_a_template_may_begin_the_thoughts(engine: FakeEngine, special: Tokenizer) -> None:
    engine.reply = saying(special, "Well.</think>Hello.")
    template = CHATML + "{% if add_generation_prompt %}<think>\n{% endif %}{# </think> #}"
    assert (await answer(engine, template))[:2] == ("Hello.", "Well.")


async def test_harmonys_channels_are_told_apart(engine: FakeEngine, special: Tokenizer) -> None:
    engine.reply = saying(
        special,
        "<|channel|>analysis<|message|>Need the weather.<|end|><|start|>assistant<|channel|>commentary "
        'to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris"}<|call|>',
    )
    tools = [ToolDefinition(name="get_weather")]
    text, reasoning, responses = await answer(engine, CHATML + "{# <|channel|> #}", tools=tools)
    assert (text, reasoning) == ("", "Need the weather.")
    calls = [call for each in responses for call in each.tool_calls]
    assert calls[0].name == "get_weather"
    assert json.loads("".join(call.arguments_delta for call in calls)) == {"city": "Paris"}
    assert responses[-1].finish_reason == generation_pb2.FINISH_REASON_TOOL_CALLS


async def test_the_effort_to_think_is_the_templates_to_read(engine: FakeEngine, special: Tokenizer) -> None:
    engine.reply = saying(special, "Hello.")
    template = "{{ messages[0].content }} {{ reasoning_effort }} {{ enable_thinking }}"
    await answer(engine, template, reasoning_effort="none")
    assert special.decode(engine.requests[-1].prompt_token_ids) == "Hi none False"
