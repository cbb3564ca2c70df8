"""Several answers to one request, as OpenAI's own client sees them."""

from __future__ import annotations

from collections import defaultdict

import openai
import pytest

from tests.services.gateway.fake_tokenizer import MODEL, Answer, FakeTokenizer, Request, Response

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = [{"role": "user", "content": "hi"}]


def answer(request: Request) -> Answer:
    """Sample number i says i, twice."""
    samples = range(request.sampling.num_samples)
    return Answer([Response(text_delta=str(i), sample_index=i) for i in samples] * 2)


async def test_a_chat_has_a_choice_for_each(client: openai.AsyncOpenAI, tokenizer: FakeTokenizer) -> None:
    tokenizer.answer = answer
    whole = await client.chat.completions.create(model=MODEL, messages=HELLO, n=3)
    assert [(choice.index, choice.message.content) for choice in whole.choices] == [
        (0, "00"),
        (1, "11"),
        (2, "22"),
    ]
    assert {choice.finish_reason for choice in whole.choices} == {"stop"}
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == 1
    assert len(tokenizer.requests) == 1


async def test_a_streamed_chat_begins_and_ends_each(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer
) -> None:
    tokenizer.answer = answer
    stream = await client.chat.completions.create(model=MODEL, messages=HELLO, n=2, stream=True)
    deltas = defaultdict(list)
    async for chunk in stream:
        for choice in chunk.choices:
            deltas[choice.index].append(choice)
    for index, choices in deltas.items():
        assert choices[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in choices) == 2 * str(index)
        assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert sorted(deltas) == [0, 1]


@pytest.mark.parametrize("stream", [False, True])
async def test_completions_number_the_answers_to_all_prompts(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer, stream: bool
) -> None:
    tokenizer.answer = answer
    texts: dict[int, str] = defaultdict(str)
    if stream:
        async for chunk in await client.completions.create(model=MODEL, prompt=["a", "b"], n=2, stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].text
    else:
        whole = await client.completions.create(model=MODEL, prompt=["a", "b"], n=2, best_of=2)
        texts |= {choice.index: choice.text for choice in whole.choices}
    assert texts == {0: "00", 1: "11", 2: "00", 3: "11"}


async def test_the_best_of_more_answers_is_not_chosen(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model=MODEL, prompt="a", n=2, best_of=3)
    assert (caught.value.param, caught.value.code) == ("best_of", "unsupported_parameter")
