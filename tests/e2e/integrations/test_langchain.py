"""LangChain's ChatOpenAI."""

from __future__ import annotations

import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from tests.e2e.conftest import KEY
from tests.e2e.questions import MODEL, City

FRANCE = "What is the capital of France?"


@tool
def get_weather(city: str) -> str:
    """Get the current weather in a city."""
    return f"7 degrees and rain in {city}"


@pytest.fixture
def model(stack) -> ChatOpenAI:
    return ChatOpenAI(
        model=MODEL, base_url=stack.url, api_key=KEY, temperature=0, max_retries=0, max_tokens=200
    )


def test_a_chat_is_answered(model):
    answer = model.invoke(FRANCE)
    assert "Paris" in answer.content
    assert answer.usage_metadata["output_tokens"] > 0


async def test_a_chat_is_streamed(model):
    long = {"max_tokens": 600, "extra_body": {"min_tokens": 600}}  # a short answer may well be one piece
    chunks = [chunk async for chunk in model.astream(FRANCE, **long)]
    assert "Paris" in "".join(chunk.content for chunk in chunks)
    assert len(chunks) > 3


def test_a_tool_is_called_and_its_result_answered_from(model):
    with_tools = model.bind_tools([get_weather], strict=True)
    messages = [HumanMessage("What is the weather in Oslo?")]
    answer = with_tools.invoke(messages)
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Oslo"})
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    assert with_tools.invoke([*messages, answer, result]).content


async def test_a_streamed_call_is_put_together_and_answered_from(model):
    with_tools = model.bind_tools([get_weather], strict=True)
    messages = [HumanMessage("What is the weather in Oslo?")]
    answer = None
    async for chunk in with_tools.astream(messages, stream_usage=True):
        answer = chunk if answer is None else answer + chunk
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Oslo"})
    assert answer.usage_metadata["output_tokens"] > 0
    assert (await with_tools.ainvoke([*messages, answer, get_weather.invoke(call)])).content


def test_a_tool_can_be_forced_one_call_at_a_time(model):
    with_tools = model.bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False)
    (call,) = with_tools.invoke(FRANCE).tool_calls
    assert call["name"] == "get_weather"


def test_a_prompt_that_is_too_long_is_called_so(model):
    with pytest.raises(ContextOverflowError):
        model.invoke("long " * 2000)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_output_is_structured(model, method):
    structured = model.with_structured_output(City, method=method)
    assert isinstance(structured.invoke("Describe Paris as JSON."), City)
