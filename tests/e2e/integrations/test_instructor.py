"""instructor: typed answers by forced tools, by JSON schemas and by JSON mode."""

from __future__ import annotations

from typing import Annotated

import instructor
import pytest
from pydantic import BaseModel, Field

from tests.e2e.questions import MODEL, PARIS, City


class Names(BaseModel):
    """Enough of them not to be sent in one piece."""

    names: list[Annotated[str, Field(max_length=12)]] = Field(min_length=40, max_length=40)


@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA])
def test_an_answer_has_the_type_that_was_asked_for(sync_openai, mode):
    client = instructor.from_openai(sync_openai, mode=mode)
    city = client.chat.completions.create(
        model=MODEL, messages=PARIS, response_model=City, temperature=0, max_tokens=200
    )
    assert isinstance(city, City)


@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA])
async def test_an_answer_grows_while_it_is_streamed(async_openai, mode):
    client = instructor.from_openai(async_openai, mode=mode)
    stream = client.chat.completions.create_partial(
        model=MODEL, messages=PARIS, response_model=Names, temperature=0, max_tokens=900
    )
    partial = [names async for names in stream]
    assert len(partial) > 1
    assert len(partial[-1].names) == 40
