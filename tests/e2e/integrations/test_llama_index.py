"""LlamaIndex's OpenAILike."""

from __future__ import annotations

import pytest
from llama_index.core.agent.workflow import FunctionAgent, ToolCall
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

from tests.e2e.conftest import KEY
from tests.e2e.questions import MODEL

FRANCE = [ChatMessage(role="user", content="What is the capital of France?")]


def get_weather(city: str) -> str:
    """Get the current weather in a city."""
    return f"7 degrees and rain in {city}"


@pytest.fixture
def model(stack) -> OpenAILike:
    return OpenAILike(
        model=MODEL,
        api_base=stack.url,
        api_key=KEY,
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=1024,
        temperature=0,
        max_retries=0,
    )


def test_a_chat_is_answered(model):
    assert "Paris" in model.chat(FRANCE).message.content


def test_a_chat_is_streamed(model):
    long = {"max_tokens": 600, "extra_body": {"min_tokens": 600}}  # a short answer may well be one piece
    pieces = [piece.delta or "" for piece in model.stream_chat(FRANCE, **long)]
    assert "Paris" in "".join(pieces)
    assert len(pieces) > 3


async def test_a_chat_is_streamed_asynchronously(model):
    pieces = [piece.delta or "" async for piece in await model.astream_chat(FRANCE)]
    assert "Paris" in "".join(pieces)


def test_a_tool_is_called(model):
    tools = [FunctionTool.from_defaults(get_weather)]
    answer = model.chat_with_tools(tools, user_msg="What is the weather in Oslo?")
    (call,) = model.get_tool_calls_from_response(answer)
    assert (call.tool_name, call.tool_kwargs) == ("get_weather", {"city": "Oslo"})


async def test_a_streamed_call_is_put_together(model):
    tools = [FunctionTool.from_defaults(get_weather)]
    stream = await model.astream_chat_with_tools(tools, user_msg="What is the weather in Oslo?")
    *_, answer = [piece async for piece in stream]
    (call,) = model.get_tool_calls_from_response(answer)
    assert (call.tool_name, call.tool_kwargs) == ("get_weather", {"city": "Oslo"})


async def test_an_agent_streams_its_tool_loop(model):
    agent = FunctionAgent(tools=[FunctionTool.from_defaults(get_weather)], llm=model)
    handler = agent.run("What is the weather in Oslo?", max_iterations=3)
    called = [event.tool_kwargs async for event in handler.stream_events() if isinstance(event, ToolCall)]
    assert called == [{"city": "Oslo"}]
    assert str(await handler)
