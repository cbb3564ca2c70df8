"""Streams on the wire: their bytes, clients that hang up, clients that read slowly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.patience import until
from tests.services.gateway.fake_tokenizer import MODEL, Answer, FakeTokenizer
from tokenwire.v1 import tokenizer_pb2
from tokenwire_services.gateway.exchange import Exchange
from tokenwire_services.gateway.metrics import Metrics
from tokenwire_services.gateway.session import Session
from tokenwire_services.gateway.text_writer import TextWriter

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


async def test_the_bytes_of_a_chat_stream(http: httpx.AsyncClient, tokenizer: FakeTokenizer) -> None:
    tokenizer.answer = lambda request: Answer(['"é"\n', "\u2028𝄞"])
    tokenizer.step_s = 0.02
    response = await http.post(CHAT, json={**BODY, "stream": True, "stream_options": {"include_usage": True}})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    *events, done, end = response.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    first, *rest = [json.loads(event.removeprefix("data: ")) for event in events]
    head = {key: first[key] for key in ("id", "object", "created", "model")}
    assert head["object"] == "chat.completion.chunk"

    def chunk(delta: dict[str, str | None], **end: str | None) -> dict[str, object]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **end}
        return {**head, "choices": [choice], "usage": None}

    assert [first, *rest[:-1]] == [
        chunk({"role": "assistant", "content": "", "refusal": None}),
        chunk({"content": '"é"\n'}),
        chunk({"content": "\u2028𝄞"}),
        chunk({}, finish_reason="stop", stop_reason=None),
    ]
    assert rest[-1]["choices"] == []
    assert rest[-1]["usage"]["completion_tokens"] == 2


async def test_without_include_usage_no_chunk_mentions_it(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/completions", json={"model": MODEL, "prompt": "a b", "stream": True})
    events = [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n")[:-2]]
    assert all("usage" not in event for event in events)
    assert [event["choices"][0]["text"] for event in events][-1] == ""


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("begun", [False, True], ids=["before text", "after text"])
async def test_a_client_that_hangs_up_has_its_request_cancelled(
    http: httpx.AsyncClient, tokenizer: FakeTokenizer, stream: bool, begun: bool
) -> None:
    tokenizer.answer = lambda request: Answer(["text"] if begun else [], endless=True)
    tokenizer.step_s = 0.01
    asking = asyncio.create_task(http.post(CHAT, json={**BODY, "stream": stream}))
    await until(lambda: any(live.sent >= 2 * begun for live in tokenizer.live.values()))
    asking.cancel()
    await until(lambda: tokenizer.cancelled == [tokenizer.requests[0].request_id])
    assert tokenizer.live == {}


async def test_a_slow_reader_gets_all_its_text_and_holds_up_nobody(
    gateway: str, http: httpx.AsyncClient, tokenizer: FakeTokenizer
) -> None:
    piece = "x" * 4096
    tokenizer.answer = lambda request: Answer(
        [piece] * 4000 if request.stop.max_tokens == 4000 else ["quick"]
    )
    async with _slow_reader(gateway, CHAT, {**BODY, "stream": True, "max_tokens": 4000}) as reader:
        await until(
            lambda: any(live.sent > 1000 for live in tokenizer.live.values())
        )  # far past any socket's buffer
        quick = await http.post(CHAT, json={**BODY, "stream": True, "max_tokens": 1})
        assert "quick" in quick.text
        await until(lambda: tokenizer.live == {})
        received = await reader.read(-1)
    assert received.count(b"x" * 16) == 4096 // 16 * 4000
    assert received.count(b"data: ") < 3000  # what gathered while the socket was full went out together
    assert b"data: [DONE]" in received[-40:]


async def test_texts_of_several_prompts_do_not_cut_into_each_other(
    gateway: str, tokenizer: FakeTokenizer
) -> None:
    tokenizer.answer = lambda request: Answer([request.text * 4096] * 1000)
    body = {"model": MODEL, "prompt": ["a", "b"], "stream": True, "max_tokens": 1000}
    async with _slow_reader(gateway, "/v1/completions", body) as reader:
        await until(lambda: len(tokenizer.requests) == 2)
        await until(lambda: tokenizer.live == {})
        await reader.readuntil(b"\r\n\r\n")
        received = b""
        while size := int(await reader.readline(), 16):
            received += (await reader.readexactly(size + 2))[:-2]
    *events, done, _ = received.split(b"\n\n")
    assert done == b"data: [DONE]"
    choices = [json.loads(event.removeprefix(b"data: "))["choices"][0] for event in events]
    texts = ["".join(choice["text"] for choice in choices if choice["index"] == index) for index in (0, 1)]
    assert texts == ["a" * 4096 * 1000, "b" * 4096 * 1000]


@contextlib.asynccontextmanager
async def _slow_reader(
    gateway: str, path: str, body: dict[str, object]
) -> AsyncIterator[asyncio.StreamReader]:
    """Of an answer, while it is not read."""
    host, port = gateway.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection(host, int(port), limit=4096)
    head = b"POST %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    writer.write(head % (path.encode(), len(content)) + content)
    yield reader
    writer.close()


@contextlib.asynccontextmanager
async def _connection() -> AsyncIterator[tuple[TextWriter, socket.socket]]:
    """What writes text, and the other end of its connection."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    with contextlib.closing(theirs), contextlib.closing(transport):
        yield TextWriter(transport, b"<", b">", lambda: None), theirs


async def test_text_is_written_until_something_else_arrives() -> None:
    session = Session(Metrics())
    exchange = Exchange(session)
    exchange.submit([tokenizer_pb2.TokenizerGenerateRequest()], wake_on_delta=True)
    (generation,) = exchange.generations
    columns = {"slots": [0], "text_deltas": ["so"], "token_counts": [1], "token_ids": [7]}
    async with _connection() as (writer, theirs):
        generation.write_with(writer)
        session.deliver(tokenizer_pb2.TokenizerSessionResponse(step=1, **columns))
        assert (theirs.recv(100), generation.texts) == (b'6\r\n<"so">\r\n', [])

        end = tokenizer_pb2.TokenizerSessionResponse(step=2, **columns)
        end.finished.add(slot=0, usage={})
        session.deliver(end)
        assert theirs.recv(100) == b'6\r\n<"so">\r\n'
    assert generation.done
    assert generation.writers == {}


async def test_text_never_overtakes_reasoning_that_arrived_with_it() -> None:
    session = Session(Metrics())
    exchange = Exchange(session)
    exchange.submit([tokenizer_pb2.TokenizerGenerateRequest()], wake_on_delta=True)
    (generation,) = exchange.generations
    detail = tokenizer_pb2.TokenizerGenerateResponse(reasoning_delta="hm")
    both = tokenizer_pb2.TokenizerSessionResponse(
        step=2, slots=[0], text_deltas=["so"], token_counts=[1], token_ids=[7]
    )
    both.details.add(slot=0, response=detail)
    later = tokenizer_pb2.TokenizerSessionResponse(
        step=3, slots=[0], text_deltas=[" be it"], token_counts=[1], token_ids=[8]
    )
    async with _connection() as (writer, theirs):
        generation.write_with(writer)
        session.deliver(both)
        session.deliver(later)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
    assert (generation.reasoning, generation.texts) == (["hm"], ["so", " be it"])
