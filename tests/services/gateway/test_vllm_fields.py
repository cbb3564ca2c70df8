"""Fields of vLLM's that shape the answer."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.services.gateway.answers import with_prompt
from tests.services.gateway.fake_tokenizer import MODEL, Answer, FakeTokenizer, Response

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO: Any = [{"role": "user", "content": "hi"}]
PREFILL: Any = [*HELLO, {"role": "assistant", "content": [{"type": "text", "text": "Once upon"}]}]


@pytest.mark.parametrize(
    ("path", "prompt", "answer_id"),
    [(CHAT, {"messages": HELLO}, "chatcmpl-mine"), (COMPLETIONS, {"prompt": "hi"}, "cmpl-mine")],
)
async def test_a_request_id_becomes_the_answers_id(
    http: httpx.AsyncClient, tokenizer: FakeTokenizer, path: str, prompt: dict[str, Any], answer_id: str
) -> None:
    for _ in range(2):
        whole = await http.post(path, json={"model": MODEL, "request_id": "mine", **prompt})
        assert whole.json()["id"] == answer_id
    first, second = tokenizer.requests
    assert first.request_id != second.request_id


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("model", [{}, {"model": None}], ids=["left out", "null"])
async def test_the_only_model_need_not_be_named(
    http: httpx.AsyncClient, tokenizer: FakeTokenizer, path: str, model: dict[str, None]
) -> None:
    tokenizer.answer = lambda request: Answer(["hello"])
    whole = await http.post(path, json={"messages": HELLO, "prompt": "hi", **model})
    assert whole.json()["model"] == MODEL
    assert tokenizer.requests[0].model == ""


async def test_reasoning_is_left_out_on_request(client: openai.AsyncOpenAI, tokenizer: FakeTokenizer) -> None:
    tokenizer.answer = lambda request: Answer([Response(reasoning_delta="1 + 1"), Response(text_delta="2")])
    for include in None, True, False:
        extra = {"include_reasoning": include}
        whole = await client.chat.completions.create(model=MODEL, messages=HELLO, extra_body=extra)
        stream = await client.chat.completions.create(
            model=MODEL, messages=HELLO, extra_body=extra, stream=True
        )
        deltas = [chunk.choices[0].delta.model_dump() async for chunk in stream]
        expected = [] if include is False else ["1 + 1"]
        assert whole.choices[0].message.content == "2"
        for name in "reasoning", "reasoning_content":
            assert [text for text in [whole.choices[0].message.model_dump().get(name)] if text] == expected
            assert [delta[name] for delta in deltas if name in delta] == expected


@pytest.mark.parametrize("echo", [True, False])
async def test_a_continued_message_is_echoed_on_request(
    client: openai.AsyncOpenAI, tokenizer: FakeTokenizer, echo: bool
) -> None:
    tokenizer.answer = lambda request: Answer([" a time"])
    extra = {"echo": echo, "continue_final_message": True, "add_generation_prompt": False}
    whole = await client.chat.completions.create(model=MODEL, messages=PREFILL, extra_body=extra)
    stream = await client.chat.completions.create(
        model=MODEL, messages=PREFILL, extra_body=extra, stream=True
    )
    streamed = [chunk.choices[0].delta.content or "" async for chunk in stream]
    expected = "Once upon a time" if echo else " a time"
    assert (whole.choices[0].message.content, "".join(streamed)) == (expected, expected)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_every_chunk_counts_the_tokens_so_far(
    http: httpx.AsyncClient, client: openai.AsyncOpenAI, tokenizer: FakeTokenizer, path: str
) -> None:
    tokenizer.answer = with_prompt
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    if path == CHAT:
        chats = await client.chat.completions.create(
            model=MODEL, messages=HELLO, stream=True, stream_options=options
        )
        chunks = [chunk.model_dump() async for chunk in chats]
    else:
        texts = await client.completions.create(
            model=MODEL, prompt="So é", stream=True, stream_options=options
        )
        chunks = [chunk.model_dump() async for chunk in texts]
    *counted, last = chunks
    counts = [chunk["usage"]["completion_tokens"] for chunk in counted]
    assert counts == sorted(counts)
    assert counts[-1] == last["usage"]["completion_tokens"] > 0
    assert {chunk["usage"]["prompt_tokens"] for chunk in counted} == {3}
    assert not any(choice.get("token_ids") for chunk in chunks for choice in chunk["choices"])
    assert last["choices"] == []


async def test_an_echo_says_no_token_ids_unless_asked(
    http: httpx.AsyncClient, tokenizer: FakeTokenizer
) -> None:
    tokenizer.answer = with_prompt
    body = {"model": MODEL, "prompt": "So é", "echo": True, "logprobs": 1, "max_tokens": 0}
    whole = (await http.post(COMPLETIONS, json=body)).json()
    assert whole["choices"][0]["text"] == "So é"
    assert "prompt_token_ids" not in whole["choices"][0]
    assert whole["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize(
    ("fields", "most", "keep_first"),
    [
        ({"truncate_prompt_tokens": 5}, 5, False),
        ({"truncate_prompt_tokens": 5, "truncation_side": "right"}, 5, True),
        ({"truncate_prompt_tokens": -1}, None, False),
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_how_to_shorten_the_prompt_arrives(
    http: httpx.AsyncClient,
    tokenizer: FakeTokenizer,
    path: str,
    fields: dict[str, Any],
    most: int | None,
    keep_first: bool,
) -> None:
    await http.post(path, json={"model": MODEL, "messages": HELLO, "prompt": "hi", **fields})
    (request,) = tokenizer.requests
    truncation = request.truncation
    assert request.HasField("truncation")
    assert (truncation.max_tokens if truncation.HasField("max_tokens") else None) == most
    assert truncation.keep_first == keep_first


async def test_a_text_goes_without_special_tokens_on_request(
    http: httpx.AsyncClient, tokenizer: FakeTokenizer
) -> None:
    for value in None, False:
        await http.post(COMPLETIONS, json={"model": MODEL, "prompt": "hi", "add_special_tokens": value})
    default, without = tokenizer.requests
    assert not default.HasField("add_special_tokens")
    assert without.HasField("add_special_tokens")
    assert not without.add_special_tokens
    assert not without.HasField("truncation")
