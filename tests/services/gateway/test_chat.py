"""Chat completions as OpenAI's own client sees them."""

from __future__ import annotations

import asyncio

import openai
import pytest

from tests.services.gateway.fake_tokenizer import MODEL, FakeTokenizer

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = [{"role": "user", "content": "good morning to you"}]


async def test_a_chat_is_answered_in_one_piece(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == MODEL
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "good morning to you")
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        4,
        4,
        8,
    )


async def test_a_chat_is_answered_as_a_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "good morning to you"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    assert all(chunk.usage is None for chunk in chunks)


async def test_the_stream_ends_with_the_usage_when_asked_for(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 8
    assert all(chunk.usage is None and chunk.choices for chunk in chunks[:-1])


async def test_the_synchronous_client_works_too(gateway: str) -> None:
    def chat() -> tuple[str | None, str]:
        client = openai.OpenAI(base_url=f"{gateway}/v1", api_key="any", max_retries=0)
        whole = client.chat.completions.create(model=MODEL, messages=HELLO)
        stream = client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        return whole.choices[0].message.content, "".join(
            chunk.choices[0].delta.content or "" for chunk in stream
        )

    assert await asyncio.to_thread(chat) == ("good morning to you", "good morning to you")


async def test_64_streams_at_once_each_get_their_own_text(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer
) -> None:
    async def chat(number: int) -> str:
        text = " ".join(f"{number}:{word}" for word in range(20))
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": text}], stream=True
        )
        answer = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert answer == text
        return answer

    assert len(set(await asyncio.gather(*map(chat, range(64))))) == 64
    assert tokenizer.live == {}
