"""Calls served on a Unix socket, by this project's client and by the gRPC library's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from tests.patience import PATIENCE_S, until
from tokenwire.duplex import server as duplex
from tokenwire.duplex import wire
from tokenwire.duplex.call import open_call
from tokenwire.duplex.http2 import Http2Stream
from tokenwire.duplex.server import ServedCall, serve_calls
from tokenwire.status import StatusError, invalid_argument
from tokenwire.v1 import tokenizer_pb2

Message = tokenizer_pb2.DetokenizeResponse
Call = ServedCall[Message, Message]
Handler = Callable[[Call], Awaitable[None]]
Open = Callable[..., Awaitable[Any]]
METHOD = "/test.Test/Echo"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "calls")


@contextlib.asynccontextmanager
async def serving(path: str, handle: Handler, max_message_bytes: int = 64 << 20) -> AsyncIterator[None]:
    server = await serve_calls(path, METHOD, Message, handle, max_message_bytes)
    try:
        yield
    finally:
        server.close()


@pytest.fixture(params=["tokenwire", "grpc"])
async def call(request: pytest.FixtureRequest, path: str) -> AsyncIterator[Open]:
    """Begins a call, of this method or another, by one client or the other."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(method: str = METHOD) -> Any:
            if request.param == "tokenwire":
                opened = await open_call(f"unix:{path}", method, Message, Message)
                stack.callback(opened.cancel)
                return opened
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(f"unix:{path}", options=options)
            )
            return channel.stream_stream(method, Message.SerializeToString, Message.FromString)()

        async with asyncio.timeout(PATIENCE_S):
            yield begin


async def echo(call: Call) -> None:
    while (message := await call.read()) is not None:
        await call.write(message)


async def error_of(call: Any) -> StatusError:
    """What a call ends with."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return StatusError.from_call(error)
    raise AssertionError("it ended well")


@pytest.mark.parametrize("size", [0, 1, 16_380, 65_535, 1_000_003, 20 << 20])
async def test_messages_of_any_size_come_back_as_they_went(path: str, call: Open, size: int) -> None:
    async with serving(path, echo):
        mine = await call()
        for text in ("x" * size, "y" * size, ""):
            await mine.write(Message(text=text))
            assert await mine.read() == Message(text=text)
        await mine.done_writing()
        assert await mine.read() is grpc.aio.EOF


async def test_each_message_is_taken_until_the_peer_says_no_more(path: str, call: Open) -> None:
    taken: list[str] = []

    async def take_all(theirs: Call) -> None:
        await theirs.each(lambda message: taken.append(message.text))
        await theirs.write(Message(text="".join(taken)))

    async with serving(path, take_all):
        mine = await call()
        for text in "abc":
            await mine.write(Message(text=text))
        await mine.done_writing()
        assert await mine.read() == Message(text="abc")
        assert await mine.read() is grpc.aio.EOF


async def test_a_call_ends_with_what_is_wrong_with_a_message_that_is_taken(path: str, call: Open) -> None:
    taken: list[str] = []

    def take(message: Message) -> None:
        taken.append(message.text)
        if message.text == "b":
            raise invalid_argument("text", "is b")

    async with serving(path, lambda theirs: theirs.each(take)):
        mine = await call()
        for text in "ab":
            await mine.write(Message(text=text))
        error = await error_of(mine)
    assert (error.code, error.message) == (grpc.StatusCode.INVALID_ARGUMENT, "text: is b")
    assert taken == ["a", "b"]


async def test_many_calls_go_on_beside_one_another(path: str, call: Open) -> None:
    async with serving(path, echo):
        calls = [await call() for _ in range(8)]
        for number, mine in enumerate(calls):
            await mine.write(Message(text=str(number)))
        assert [(await mine.read()).text for mine in calls] == list("01234567")


async def test_an_error_has_its_code_and_words(path: str, call: Open) -> None:
    async def refuse(_: Call) -> None:
        raise invalid_argument("open", "no session 100 % like „this“\n")

    async with serving(path, refuse):
        error = await error_of(await call())
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.message == "open: no session 100 % like „this“\n"


async def test_a_peer_that_still_writes_hears_how_its_call_ended(path: str) -> None:
    async def refuse(_: Call) -> None:
        raise StatusError(grpc.StatusCode.NOT_FOUND, "no such session")

    async with serving(path, refuse):
        reader, writer = await asyncio.open_unix_connection(path)
        peer = Http2Stream.request(
            [(":method", "POST"), (":path", METHOD), ("content-type", "application/grpc")]
        )
        writer.write(peer.outgoing)
        await asyncio.sleep(0.1)
        for _ in range(3):  # to what is over by now
            peer.outgoing = bytearray()
            peer.send(b"\0\0\0\0\0")
            writer.write(peer.outgoing)
            await writer.drain()
            await asyncio.sleep(0.01)
        peer.receive(await asyncio.wait_for(reader.read(1 << 16), PATIENCE_S))
        writer.close()
    assert peer.trailers is not None
    assert peer.trailers["grpc-status"] == "5"


async def test_what_came_before_an_error_is_read_first(path: str, call: Open) -> None:
    async def fail_late(call: Call) -> None:
        for text in "abc":
            await call.write(Message(text=text))
        raise StatusError(grpc.StatusCode.ABORTED, "enough")

    async with serving(path, fail_late):
        mine = await call()
        assert [(await mine.read()).text for _ in range(3)] == ["a", "b", "c"]
        assert (await error_of(mine)).code is grpc.StatusCode.ABORTED


async def test_a_handler_that_fails_ends_its_own_call_only(path: str, call: Open) -> None:
    async def divide(call: Call) -> None:
        message = await call.read()
        assert isinstance(message, Message)
        await call.write(Message(text=str(1 // len(message.text))))

    async with serving(path, divide):
        mine = await call()
        await mine.write(Message())
        assert (await error_of(mine)).code is grpc.StatusCode.INTERNAL
        again = await call()
        await again.write(Message(text="x"))
        assert await again.read() == Message(text="1")


async def test_there_is_one_method(path: str, call: Open) -> None:
    async with serving(path, echo):
        error = await error_of(await call("/test.Test/Other"))
    assert (error.code, METHOD in error.message) == (grpc.StatusCode.UNIMPLEMENTED, True)


async def test_hanging_up_cancels_the_handler(path: str, call: Open) -> None:
    ended = asyncio.Event()

    async def wait(call: Call) -> None:
        try:
            await echo(call)
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.set()
            raise

    async with serving(path, wait):
        mine = await call()
        await mine.write(Message(text="here"))
        await mine.read()
        mine.cancel()
        await asyncio.wait_for(ended.wait(), PATIENCE_S)


async def test_a_channel_of_the_grpc_library_may_make_one_call_after_another(path: str) -> None:
    async with serving(path, echo), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        method = channel.stream_stream(METHOD, Message.SerializeToString, Message.FromString)
        for text in "abcdefgh":
            mine = method(wait_for_ready=True)
            await mine.write(Message(text=text))
            assert await mine.read() == Message(text=text)
            mine.cancel()


async def test_calls_that_begin_together_on_a_channel_of_the_grpc_library_do_not_meet(path: str) -> None:
    async with serving(path, echo), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        method = channel.stream_stream(METHOD, Message.SerializeToString, Message.FromString)
        calls = [method(wait_for_ready=True) for _ in range(4)]
        for number, mine in enumerate(calls):
            await mine.write(Message(text=str(number)))
        assert [(await mine.read()).text for mine in calls] == list("0123")


async def test_a_writer_waits_for_a_peer_that_does_not_read(path: str, call: Open) -> None:
    num_written = 0

    async def write(call: Call) -> None:
        nonlocal num_written
        for _ in range(400):
            await call.write(Message(text="x" * 100_000))
            num_written += 1

    async with serving(path, write):
        mine = await call()
        await asyncio.sleep(0.3)
        assert num_written < 390
        num_read = 0
        while await mine.read() is not grpc.aio.EOF:
            num_read += 1
        assert num_read == 400


async def test_a_message_that_is_too_large_ends_the_call(path: str, call: Open) -> None:
    async with serving(path, echo, max_message_bytes=1000):
        mine = await call()
        await mine.write(Message(text="x" * 900))
        await mine.read()
        await mine.write(Message(text="x" * 1001))
        assert (await error_of(mine)).code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_message_that_cannot_be_decoded_is_the_peers_fault(path: str) -> None:
    async with serving(path, echo):
        mine = await open_call(f"unix:{path}", METHOD, BytesValue, Message)
        await mine.write(BytesValue(value=b"\xff"))  # where the text is
        error = await error_of(mine)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.message.startswith("request: cannot be decoded")


@pytest.mark.parametrize(
    "begin", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(40)]
)
async def test_a_peer_that_does_not_speak_http_2_is_left(path: str, begin: bytes) -> None:
    async with serving(path, echo):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(begin)
        await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()


async def test_a_peer_that_says_nothing_is_left(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplex, "HEAD_TIMEOUT_S", 0.1)
    async with serving(path, echo):
        reader, writer = await asyncio.open_unix_connection(path)
        await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()


async def test_the_socket_is_this_users_and_is_removed(path: str) -> None:
    async with serving(path, echo):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(FileNotFoundError):
        os.stat(path)


async def test_a_socket_that_a_dead_process_left_is_replaced(path: str, call: Open) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    async with serving(path, echo):
        mine = await call()
        await mine.write(Message(text="x"))
        assert await mine.read() == Message(text="x")


async def test_a_successors_socket_is_left_to_it(path: str, call: Open) -> None:
    first = await serve_calls(path, METHOD, Message, echo, 1000)
    async with serving(path, echo):
        first.close()
        mine = await call()
        await mine.write(Message(text="x"))
        assert await mine.read() == Message(text="x")


async def test_a_socket_without_a_file() -> None:
    name = f"@tokenwire-test-{os.getpid()}"
    async with serving(name, echo):
        mine = await open_call(f"unix:{name}", METHOD, Message, Message)
        await mine.write(Message(text="x"))
        assert await mine.read() == Message(text="x")
        mine.cancel()
    with pytest.raises(grpc.aio.AioRpcError, match="cannot connect"):
        await open_call(f"unix:{name}", METHOD, Message, Message)


async def test_a_server_that_stops_waits_for_its_calls_and_breaks_off_those_that_go_on(path: str) -> None:
    async def until_told(call: Call) -> None:
        await call.write(Message(text="begun"))
        await call.read()

    server = await serve_calls(path, METHOD, Message, until_told)
    ends, goes_on = [await open_call(f"unix:{path}", METHOD, Message, Message) for _ in range(2)]
    for mine in (ends, goes_on):
        assert await mine.read() == Message(text="begun")
    stopping = asyncio.create_task(server.stop(0.2))
    await ends.done_writing()
    assert await ends.read() is grpc.aio.EOF
    assert (await error_of(goes_on)).code is grpc.StatusCode.UNAVAILABLE
    await asyncio.wait_for(stopping, PATIENCE_S)


async def test_a_peer_that_falls_silent_is_asked_and_then_left(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "KEEPALIVE_S", 0.1)
    monkeypatch.setattr(wire, "KEEPALIVE_TIMEOUT_S", 0.1)
    has_ended = asyncio.Event()

    async def wait(call: Call) -> None:
        try:
            await call.read()
        finally:
            has_ended.set()

    async with serving(path, wait):
        answers = await open_call(f"unix:{path}", METHOD, Message, Message)
        await asyncio.sleep(0.5)
        assert not has_ended.is_set()
        answers.wire.transport.pause_reading()
        await asyncio.wait_for(has_ended.wait(), PATIENCE_S)
        answers.cancel()


async def test_calls_that_were_begun_go_on_when_no_more_are_taken(path: str, call: Open) -> None:
    async with serving(path, echo):
        mine = await call()
        await mine.write(Message(text="x"))
        await mine.read()
    await mine.write(Message(text="y"))
    assert await mine.read() == Message(text="y")
    await until(lambda: not os.path.lexists(path))
