"""instructor: typed answers by forced tools, by JSON schemas and by JSON mode."""

from __future__ import annotations

import instructor
import pytest

from tests.e2e.integrations.test_openai_package import City

ASK = [{"role": "user", "content": "Describe Paris as JSON."}]


@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA])
def test_an_answer_has_the_type_that_was_asked_for(sync_openai, mode):
    client = instructor.from_openai(sync_openai, mode=mode)
    city = client.chat.completions.create(
        model="tokenwire-demo", messages=ASK, response_model=City, temperature=0, max_tokens=200
    )
    assert isinstance(city, City)


async def test_an_answer_grows_while_it_is_streamed(async_openai):
    client = instructor.from_openai(async_openai, mode=instructor.Mode.JSON_SCHEMA)
    stream = client.chat.completions.create_partial(
        model="tokenwire-demo", messages=ASK, response_model=City, temperature=0, max_tokens=200
    )
    partial = [city async for city in stream]
    assert len(partial) > 1
    assert partial[-1].name is not None
