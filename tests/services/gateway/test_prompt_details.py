"""What can be asked about the prompt: its text, its token IDs, its log-probabilities."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.services.gateway.answers import with_prompt
from tests.services.gateway.fake_tokenizer import MODEL, FakeTokenizer

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = {"messages": [{"role": "user", "content": "hi"}]}


async def post(http: httpx.AsyncClient, path: str, **body: Any) -> Any:
    response = await http.post(path, json={"model": MODEL, **body})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("stream", [False, True])
async def test_echo_puts_the_prompt_first(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer, stream: bool
) -> None:
    tokenizer.answer = with_prompt
    if stream:
        chunks = await client.completions.create(
            model=MODEL, prompt=[7, 8, 9], echo=True, logprobs=1, stream=True
        )
        choices = [chunk.choices[0] async for chunk in chunks]
    else:
        choices = (await client.completions.create(model=MODEL, prompt="So é", echo=True, logprobs=1)).choices
    assert "".join(choice.text for choice in choices) == "So é on."
    given = [choice.logprobs for choice in choices if choice.logprobs]
    assert [token for part in given for token in part.tokens or ()] == ["So", " ", "é", " on", "."]
    assert [x for part in given for x in part.token_logprobs or ()] == [None, -1, -2, -0.5, -0.5]
    assert [x for part in given for x in part.text_offset or ()] == [0, 2, 3, 4, 7]
    tops = [top for part in given for top in part.top_logprobs or ()]
    assert tops[:3] == [None, {" ": -1}, {"x": -0.5, "é": -2}]
    (request,) = tokenizer.requests
    assert request.logprobs.num_prompt_logprobs == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_echo_without_tokens_scores_a_text(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer, stream: bool
) -> None:
    tokenizer.answer = with_prompt
    options: dict[str, Any] = {"prompt": "So é", "echo": True, "logprobs": 1, "max_tokens": 0}
    if stream:
        chunks = await client.completions.create(model=MODEL, stream=True, **options)
        choices = [chunk.choices[0] async for chunk in chunks]
    else:
        choices = (await client.completions.create(model=MODEL, **options)).choices
    assert "".join(choice.text for choice in choices) == "So é"
    assert [token for c in choices if c.logprobs for token in c.logprobs.tokens or ()] == ["So", " ", "é"]
    assert tokenizer.requests[0].stop.max_tokens == 1


async def test_a_chats_token_ids_come_as_vllm_writes_them(
    http: httpx.AsyncClient, tokenizer: FakeTokenizer
) -> None:
    tokenizer.answer = with_prompt
    whole = await post(http, CHAT, **HELLO, return_token_ids=True)
    assert whole["prompt_token_ids"] == [7, 8, 9]
    assert whole["choices"][0]["token_ids"] == [4, 5]
    assert whole["choices"][0]["message"]["content"] == " on."


async def test_a_streamed_chats_token_ids_come_with_their_text(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer
) -> None:
    tokenizer.answer = with_prompt
    stream = await client.chat.completions.create(
        model=MODEL, stream=True, extra_body={"return_token_ids": True}, **HELLO
    )
    chunks = [chunk.model_dump() async for chunk in stream]
    assert chunks[0]["prompt_token_ids"] == [7, 8, 9]
    assert not any(chunk.get("prompt_token_ids") for chunk in chunks[1:])
    ids = [token for chunk in chunks for token in chunk["choices"][0].get("token_ids") or ()]
    assert ids == [4, 5]


async def test_a_completions_token_ids_come_in_its_choices(
    http: httpx.AsyncClient, tokenizer: FakeTokenizer
) -> None:
    tokenizer.answer = with_prompt
    whole = await post(http, COMPLETIONS, prompt=["a", "b"], return_token_ids=True)
    assert [choice["prompt_token_ids"] for choice in whole["choices"]] == [[7, 8, 9]] * 2
    assert [choice["token_ids"] for choice in whole["choices"]] == [[4, 5]] * 2
    assert [choice["text"] for choice in whole["choices"]] == [" on."] * 2


async def test_the_prompts_logprobs_come_as_vllm_writes_them(
    http: httpx.AsyncClient, tokenizer: FakeTokenizer
) -> None:
    tokenizer.answer = with_prompt
    expected = [
        None,
        {"8": {"logprob": -1, "rank": 1, "decoded_token": " "}},
        {
            "9": {"logprob": -2, "rank": 5, "decoded_token": "é"},
            "6": {"logprob": -0.5, "rank": 1, "decoded_token": "x"},
        },
    ]
    chat = await post(http, CHAT, **HELLO, prompt_logprobs=1)
    assert chat["prompt_logprobs"] == expected
    completion = await post(http, COMPLETIONS, prompt="a", prompt_logprobs=1)
    assert completion["choices"][0]["prompt_logprobs"] == expected


async def test_the_prompts_logprobs_cannot_be_streamed(http: httpx.AsyncClient) -> None:
    body = {"model": MODEL, "prompt": "a", "prompt_logprobs": 1, "stream": True}
    response = await http.post(COMPLETIONS, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt_logprobs"
