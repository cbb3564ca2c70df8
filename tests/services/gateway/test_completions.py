"""Plain completions as OpenAI's own client sees them."""

from __future__ import annotations

import openai
import pytest

from tests.services.gateway.fake_tokenizer import MAX_REQUESTS, MODEL, FakeTokenizer

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_text_is_continued_in_one_piece(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model=MODEL, prompt="once upon a time")
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    (choice,) = answer.choices
    assert (choice.index, choice.text, choice.finish_reason) == (0, "once upon a time", "stop")
    assert answer.usage is not None
    assert answer.usage.total_tokens == 8


async def test_a_text_is_continued_as_a_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.completions.create(
        model=MODEL, prompt="once upon a time", stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "once upon a time"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 4


async def test_at_most_16_tokens_are_generated_unless_the_request_says_otherwise(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer
) -> None:
    answer = await client.completions.create(model=MODEL, prompt="word " * 30)
    assert answer.choices[0].finish_reason == "length"
    assert tokenizer.requests[0].stop.max_tokens == 16


async def test_a_prompt_may_be_token_ids(client: openai.AsyncOpenAI, tokenizer: FakeTokenizer) -> None:
    await client.completions.create(model=MODEL, prompt=[5, 6, 7])
    assert list(tokenizer.requests[0].token_ids.ids) == [5, 6, 7]


async def test_several_prompts_get_a_choice_each(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model=MODEL, prompt=["one two", "three"])
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "one two"), (1, "three")]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 3)


async def test_several_prompts_share_one_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.completions.create(model=MODEL, prompt=[[1, 2, 3], [4]], stream=True)
    texts = {0: "", 1: ""}
    ends = {}
    async for chunk in stream:
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        if choice.finish_reason:
            ends[choice.index] = choice.finish_reason
    assert texts == {0: "1 2 3", 1: "4"}
    assert ends == {0: "stop", 1: "stop"}


async def test_prompts_that_are_answered_together_are_different_requests(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer
) -> None:
    answer = await client.completions.create(model=MODEL, prompt=["a", "b"])
    assert [request.request_id for request in tokenizer.requests] == [f"{answer.id}-0", f"{answer.id}-1"]


async def test_more_answers_than_can_ever_be_held_are_refused_for_good(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer
) -> None:
    with pytest.raises(
        openai.BadRequestError, match=f"768 requests, .* hold {MAX_REQUESTS} at a time"
    ) as caught:
        await client.completions.create(model=MODEL, prompt=["a"] * 256, n=3)
    assert caught.value.param == "prompt"
    assert not tokenizer.requests


async def test_as_many_answers_as_can_be_held_are_given(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model=MODEL, prompt=["a"] * 3, n=100)
    assert len(answer.choices) == MAX_REQUESTS
