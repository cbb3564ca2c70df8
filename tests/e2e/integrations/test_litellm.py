"""LiteLLM, told that the stack is an OpenAI-compatible server."""

from __future__ import annotations

import json
from typing import Any

import litellm
import pytest

from tests.e2e.conftest import KEY
from tests.e2e.questions import FRANCE, OSLO, WEATHER


@pytest.fixture
def server(stack) -> dict[str, Any]:
    """What every call is told."""
    return {"model": "openai/tokenwire-demo", "api_base": stack.url, "api_key": KEY, "temperature": 0}


def test_a_chat_is_answered(server):
    answer = litellm.completion(messages=FRANCE, **server)
    assert "Paris" in answer.choices[0].message.content
    assert answer.usage.completion_tokens > 0


async def test_a_chat_is_streamed(server):
    stream = await litellm.acompletion(messages=FRANCE, stream=True, **server)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert "Paris" in text


def test_a_tool_is_called(server):
    answer = litellm.completion(messages=OSLO, tools=[WEATHER], **server)
    (call,) = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Oslo"}


async def test_a_streamed_call_is_put_together_and_answered_from(server):
    stream = await litellm.acompletion(
        messages=OSLO, tools=[WEATHER], stream=True, stream_options={"include_usage": True}, **server
    )
    whole = litellm.stream_chunk_builder([chunk async for chunk in stream])
    message = whole.choices[0].message
    (call,) = message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Oslo"})
    assert whole.usage.completion_tokens > 0

    messages = [*OSLO, message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    answer = await litellm.acompletion(messages=messages, tools=[WEATHER], max_tokens=20, **server)
    assert answer.choices[0].message.content


def test_a_text_is_completed(server):
    server["model"] = "text-completion-openai/tokenwire-demo"
    answer = litellm.text_completion(prompt="Once upon a time", max_tokens=8, **server)
    assert answer.choices[0].text


def test_errors_are_litellms_own(server):
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(messages=FRANCE, **{**server, "model": "openai/gpt-99"})
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(messages=FRANCE, **{**server, "temperature": -1})
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(messages=[{"role": "user", "content": "long " * 2000}], **server)
