"""LangChain's ChatOpenAI."""

from __future__ import annotations

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from tests.e2e.conftest import KEY
from tests.e2e.integrations.test_openai_package import City

FRANCE = "What is the capital of France?"


@tool
def get_weather(city: str) -> str:
    """Get the current weather in a city."""
    return f"7 degrees and rain in {city}"


@pytest.fixture
def model(stack) -> ChatOpenAI:
    return ChatOpenAI(
        model="tokenwire-demo", base_url=stack.url, api_key=KEY, temperature=0, max_retries=0, max_tokens=200
    )


def test_a_chat_is_answered(model):
    answer = model.invoke(FRANCE)
    assert "Paris" in answer.content
    assert answer.usage_metadata["output_tokens"] > 0


async def test_a_chat_is_streamed(model):
    long = {"max_tokens": 600, "extra_body": {"ignore_eos": True}}  # a short answer may well be one piece
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


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_output_is_structured(model, method):
    structured = model.with_structured_output(City, method=method)
    assert isinstance(structured.invoke("Describe Paris as JSON."), City)
