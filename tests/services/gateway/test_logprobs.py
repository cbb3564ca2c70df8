"""Log-probabilities as OpenAI's own client sees them, streamed and not."""

from __future__ import annotations

import openai
import pytest

from tests.services.gateway.answers import said
from tests.services.gateway.fake_tokenizer import MODEL, Answer, FakeTokenizer, Request
from tokenwire.status import invalid_argument

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = [{"role": "user", "content": "hi"}]
SMILE = "🙂".encode()


def answer(request: Request) -> Answer:
    number = request.logprobs.num_logprobs
    return Answer([said("One", [b"One"], number), said(" 🙂!", [b" ", SMILE[:2], SMILE[2:], b"!"], number)])


async def test_a_chats_tokens_come_with_bytes_and_alternatives(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer
) -> None:
    tokenizer.answer = answer
    whole = await client.chat.completions.create(model=MODEL, messages=HELLO, logprobs=True, top_logprobs=2)
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.refusal is None
    content = logprobs.content or []
    assert [token.token for token in content] == ["One", " ", "\\xf0\\x9f", "\\x99\\x82", "!"]
    assert bytes(byte for token in content for byte in token.bytes or ()).decode() == "One 🙂!"
    assert {token.logprob for token in content} == {-0.5}
    first, second = content[0].top_logprobs
    assert (first.token, first.logprob, first.bytes) == ("yes", -0.25, list(b"yes"))
    assert (second.token, second.logprob, second.bytes) == ("\\xff", -9999.0, [255])


async def test_a_streamed_chat_has_them_beside_its_text(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer
) -> None:
    tokenizer.answer = answer
    stream = await client.chat.completions.create(model=MODEL, messages=HELLO, logprobs=True, stream=True)
    chunks = [chunk.choices[0] async for chunk in stream]
    content = [token for chunk in chunks if chunk.logprobs for token in chunk.logprobs.content or ()]
    assert bytes(byte for token in content for byte in token.bytes or ()).decode() == "One 🙂!"
    assert all(token.top_logprobs == [] for token in content)
    assert "".join(chunk.delta.content or "" for chunk in chunks) == "One 🙂!"
    assert chunks[-1].logprobs is None


@pytest.mark.parametrize("stream", [False, True])
async def test_a_completions_tokens_come_in_columns(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer, stream: bool
) -> None:
    tokenizer.answer = answer
    if stream:
        chunks = await client.completions.create(model=MODEL, prompt=["a", "b"], logprobs=1, stream=True)
        parts = [c.choices[0].logprobs async for c in chunks if c.choices[0].index == 1]
    else:
        whole = await client.completions.create(model=MODEL, prompt=["a", "b"], logprobs=1)
        parts = [whole.choices[1].logprobs]
    given = [part for part in parts if part is not None]
    tokens = [token for part in given for token in part.tokens or ()]
    assert tokens == ["One", " ", "bytes:\\xf0\\x9f", "bytes:\\x99\\x82", "!"]
    assert [offset for part in given for offset in part.text_offset or ()] == [0, 3, 4, 4, 5]
    assert [x for part in given for x in part.token_logprobs or ()] == [-0.5] * 5
    assert [top for part in given for top in part.top_logprobs or ()] == [
        {"yes": -0.25, token: -0.5} for token in tokens
    ]


async def test_without_asking_there_are_none(client: openai.AsyncOpenAI) -> None:
    chat = await client.chat.completions.create(model=MODEL, messages=HELLO, logprobs=False)
    assert chat.choices[0].logprobs is None
    completion = await client.completions.create(model=MODEL, prompt="hi")
    assert completion.choices[0].logprobs is None


async def test_an_error_about_them_names_the_field_of_the_endpoint(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer
) -> None:
    tokenizer.answer = lambda request: Answer(error=invalid_argument("logprobs.num_logprobs", "is 9"))
    with pytest.raises(openai.BadRequestError) as chat:
        await client.chat.completions.create(model=MODEL, messages=HELLO, logprobs=True, top_logprobs=9)
    assert chat.value.param == "top_logprobs"
    with pytest.raises(openai.BadRequestError) as completion:
        await client.completions.create(model=MODEL, prompt="hi", logprobs=9)
    assert completion.value.param == "logprobs"
