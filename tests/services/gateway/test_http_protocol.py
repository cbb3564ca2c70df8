"""Connections that send too much, too slowly, or no HTTP at all."""

from __future__ import annotations

import asyncio
import json
import socket
from urllib.parse import urlsplit

import pytest

from tests.patience import PATIENCE_S, until
from tests.services.gateway.conftest import running_gateway
from tests.services.gateway.fake_tokenizer import MODEL, Answer, FakeTokenizer
from tokenwire_services.gateway import http_protocol, limits, server

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


async def reply_to(gateway: str, *pieces: bytes) -> bytes:
    """Everything that the gateway sends until it closes the connection."""
    address = urlsplit(gateway)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
        return await asyncio.wait_for(reader.read(), PATIENCE_S)
    finally:
        writer.close()


def send_all_then_read(gateway: str, data: bytes) -> bytes:
    """What the gateway answers to a client that reads once all is sent, as most do."""
    address = urlsplit(gateway)
    with socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


async def send_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


def code_of(reply: bytes) -> tuple[int, str]:
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


def stream_request(head: bytes) -> bytes:
    """A request for a streamed chat."""
    question = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    body = json.dumps(question).encode()
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def test_a_head_without_end_is_refused(gateway: str) -> None:
    reply = await reply_to(gateway, HEAD, *[b"X-Long: " + b"x" * 30_000] * 3)
    assert code_of(reply) == (431, "request_head_too_large")


@pytest.mark.parametrize("size", [300_000, 5_000_000])
async def test_whoever_sends_a_large_head_in_one_go_can_read_the_refusal(gateway: str, size: int) -> None:
    head = HEAD + b"X-Long: " + b"x" * size + b"\r\n\r\n"
    assert code_of(await asyncio.to_thread(send_all_then_read, gateway, head)) == (
        431,
        "request_head_too_large",
    )


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_whoever_sends_a_large_body_and_closes_can_read_the_refusal(
    gateway: str, version: bytes
) -> None:
    size = 17 << 20
    head = HEAD.replace(b"1.1", version) + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % size
    reply = await asyncio.to_thread(send_all_then_read, gateway, head + b" " * size)
    assert code_of(reply) == (413, "request_too_large")


async def test_whoever_is_refused_and_goes_on_sending_is_cut_off(
    gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "LINGER_S", 0.1)
    address = urlsplit(gateway)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(b"no HTTP\r\n\r\n")
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(send_for_ever(writer), PATIENCE_S)
    writer.close()


async def test_a_body_that_goes_on_after_the_answer_does_not_hold_the_connection(
    tokenizer: FakeTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_KEEP_ALIVE_S", 0.3)
    async with running_gateway(tokenizer.port) as gateway:
        address = urlsplit(gateway)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(HEAD + b"Content-Length: 100000000\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(send_for_ever(writer), PATIENCE_S)
        writer.close()


async def test_what_is_not_http_after_a_request_that_awaits_consent_is_refused(gateway: str) -> None:
    head = HEAD + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n"
    assert code_of(await reply_to(gateway, head)) == (400, "invalid_request")


async def test_what_is_not_http_gets_the_apis_error(gateway: str) -> None:
    assert code_of(await reply_to(gateway, b"\x16\x03\x01 hello\r\n\r\n")) == (400, "invalid_request")


async def test_a_head_that_never_ends_is_given_up(gateway: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.1)
    assert code_of(await reply_to(gateway, HEAD)) == (408, "request_timeout")


async def test_a_connection_that_says_nothing_is_closed(
    gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.1)
    assert await reply_to(gateway) == b""


async def test_a_body_that_never_ends_is_given_up(gateway: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PIECE_TIMEOUT_S", 0.1)
    reply = await reply_to(gateway, HEAD + b"Content-Length: 100\r\n\r\n", b'{"model"')
    assert code_of(reply) == (408, "request_timeout")


async def test_bodies_that_never_end_do_not_fill_the_memory(
    gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_INCOMPLETE_BYTES", 1000)
    address = urlsplit(gateway)
    begin, rest = HEAD + b"Content-Length: 2000\r\n\r\n" + b" " * 1100, b" " * 900

    async def begun() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(begin)
        return reader, writer

    async def status(reader: asyncio.StreamReader) -> int:
        return int((await asyncio.wait_for(reader.readline(), PATIENCE_S)).split()[1])

    first, first_writer = await begun()  # alone, it may be as large as bodies may be
    await asyncio.sleep(0.1)
    second, second_writer = await begun()
    assert await status(second) == 503
    first_writer.write(rest)
    assert await status(first) == 400  # all white space
    third, third_writer = await begun()
    third_writer.write(rest)
    assert await status(third) == 400
    for writer in (first_writer, second_writer, third_writer):
        writer.close()


async def test_what_is_not_http_within_an_answer_ends_it_without_another(
    gateway: str, tokenizer: FakeTokenizer
) -> None:
    tokenizer.answer = lambda request: Answer(["x"], endless=True)
    address = urlsplit(gateway)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(stream_request(HEAD))
    reply = await reader.readuntil(b'"x"')
    writer.write(b"\x16\x03\x01 hello\r\n\r\n")
    reply += await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    assert reply.count(b"HTTP/1.1 200") == 1
    assert b"400 Bad Request" not in reply
    await until(lambda: not tokenizer.live)


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
@pytest.mark.parametrize("cut", [30, -20, 10_000])
async def test_who_asks_for_another_protocol_is_answered_in_http(
    gateway: str, tokenizer: FakeTokenizer, protocol: bytes, cut: int
) -> None:
    tokenizer.answer = lambda request: Answer(["one", " two"])
    asking = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: AA\r\n" % protocol
    request = stream_request(HEAD + asking)
    health = HEAD.replace(b"POST /v1/chat/completions", b"GET /health") + b"Connection: close\r\n\r\n"
    reply = await reply_to(gateway, request[:cut], request[cut:] + health)
    assert reply.count(b"HTTP/1.1 200 OK") == 2
    assert b'" two"' in reply
    assert reply.endswith(b'{"status":"ok"}')


async def test_a_tunnel_is_refused(gateway: str) -> None:
    assert code_of(await reply_to(gateway, b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 400


async def test_who_closes_the_sending_side_has_hung_up(gateway: str, tokenizer: FakeTokenizer) -> None:
    """From here, nobody can tell that from a connection that was closed."""
    tokenizer.answer = lambda request: Answer(["x"], endless=True)
    address = urlsplit(gateway)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(stream_request(HEAD))
    await reader.readuntil(b'"x"')
    writer.write_eof()
    await until(lambda: not tokenizer.live)
    assert b"[DONE]" not in await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()


async def test_a_stream_to_http_1_0_ends_with_the_connection(gateway: str, tokenizer: FakeTokenizer) -> None:
    tokenizer.answer = lambda request: Answer(["one", " two", " three"])
    reply = await reply_to(gateway, stream_request(HEAD.replace(b"HTTP/1.1", b"HTTP/1.0")))
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    *events, done, end = body.decode().split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events]
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == "one two three"


async def test_whoever_hangs_up_has_all_that_was_sent_at_once_cancelled(
    gateway: str, tokenizer: FakeTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer.answer = lambda request: Answer(["x"] * 10, endless=True)
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    address = urlsplit(gateway)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(request * 5)
    await until(lambda: len(tokenizer.requests) == 1)
    writer.transport.abort()
    await until(lambda: not tokenizer.live)
    assert len(tokenizer.requests) == 1  # nobody waits for the others
    assert not caplog.records


async def test_a_request_may_come_in_pieces(gateway: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.3)
    answered = await reply_to(
        gateway,
        b"GET /health HT",
        b"TP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHo",
        b"st: a\r\n\r\nGET",
    )
    assert answered.count(b'{"status":"ok"}') == 2
    assert answered.rstrip().endswith(b"}")
