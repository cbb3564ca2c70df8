"""Pydantic AI's agents."""

from __future__ import annotations

import pytest
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.e2e.conftest import KEY
from tests.e2e.questions import MODEL, City

BRIEFLY = {"temperature": 0.0, "max_tokens": 200}


@pytest.fixture
def model(stack) -> OpenAIChatModel:
    return OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=stack.url, api_key=KEY))


@pytest.fixture
def asked() -> list[str]:
    """The cities whose weather was asked for."""
    return []


@pytest.fixture
def weather_agent(model, asked) -> Agent:
    agent = Agent(model, model_settings=BRIEFLY)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Get the current weather in a city."""
        asked.append(city)
        return "7 degrees and rain"

    return agent


async def test_an_agent_answers(model):
    result = await Agent(model, model_settings=BRIEFLY).run("What is the capital of France?")
    assert "Paris" in result.output


async def test_an_agent_streams(model):
    agent = Agent(model, model_settings=BRIEFLY)
    async with agent.run_stream("What is the capital of France?") as result:
        text = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    assert "Paris" in "".join(text)


async def test_an_agent_calls_its_tools(weather_agent, asked):
    result = await weather_agent.run("What is the weather in Oslo?")
    assert asked[0] == "Oslo"
    assert result.output


async def test_an_agent_streams_its_tool_loop(weather_agent, asked):
    async with weather_agent.run_stream("What is the weather in Oslo?") as result:
        text = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    assert asked[0] == "Oslo"
    assert "".join(text)


@pytest.mark.parametrize("output", [City, NativeOutput(City)], ids=["by a forced tool", "by a schema"])
async def test_an_agents_output_has_the_type_that_was_asked_for(model, output):
    agent = Agent(model, output_type=output, model_settings=BRIEFLY)
    result = await agent.run("Describe Paris as JSON.")
    assert isinstance(result.output, City)
