"""A call over a connection of its own, at a gRPC server as the library makes it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from tests.cut_proxy import cut_proxy
from tests.patience import PATIENCE_S, until
from tokenwire.duplex import wire as duplex
from tokenwire.duplex.call import DuplexCall, open_call
from tokenwire.v1 import tokenizer_pb2

Message = tokenizer_pb2.DetokenizeResponse
Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Context], Awaitable[None]]
Call = DuplexCall[Message, Message]
METHOD = "/test.Test/Echo"


async def start(handler: Handler, **options: int) -> tuple[grpc.aio.Server, str]:
    """A server whose one method is this, and its address."""

    async def method(requests: AsyncIterator[Message], context: Context) -> None:
        await handler(context)

    methods = {
        "Echo": grpc.stream_stream_rpc_method_handler(method, Message.FromString, Message.SerializeToString)
    }
    server = grpc.aio.server(
        handlers=[grpc.method_handlers_generic_handler("test.Test", methods)],
        options=[(f"grpc.{name}", value) for name, value in options.items()],
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def serving(handler: Handler, **options: int) -> AsyncIterator[str]:
    """The address of such a server, for a while."""
    server, address = await start(handler, **options)
    try:
        yield address
    finally:
        await server.stop(None)


async def echo(context: Context) -> None:
    while isinstance(message := await context.read(), Message):
        await context.write(message)


@contextlib.asynccontextmanager
async def calling(address: str, method: str = METHOD) -> AsyncIterator[Call]:
    call = await open_call(address, method, Message, Message)
    async with asyncio.timeout(PATIENCE_S):
        yield call
    call.cancel()


async def error_of(call: Call) -> grpc.aio.AioRpcError:
    """What the call ends with."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("it ended well")


@pytest.mark.parametrize("size", [0, 1, 16_370, 16_380, 16_390, 65_535, 1_000_003])
async def test_messages_of_any_size_come_back_as_they_went(size: int) -> None:
    async with serving(echo) as address, calling(address) as call:
        for text in ("x" * size, "y" * size, ""):
            await call.write(Message(text=text))
            assert await call.read() == Message(text=text)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.read() is grpc.aio.EOF


async def test_each_message_is_taken_as_it_comes_behind_those_that_wait() -> None:
    taken: list[str] = []
    async with serving(echo) as address, calling(address) as call:
        for text in "abc":
            await call.write(Message(text=text))
        assert await call.read() == Message(text="a")
        await until(lambda: call.wire.num_waiting == 2)
        taking = asyncio.create_task(call.each(lambda message: taken.append(message.text)))
        await call.write(Message(text="d" * 100_000))
        await call.done_writing()
        await taking
    assert taken == ["b", "c", "d" * 100_000]


async def test_nothing_is_taken_any_more_once_that_has_failed() -> None:
    taken: list[str] = []

    def take(message: Message) -> None:
        taken.append(message.text)
        if len(taken) == 2:
            raise ValueError(message.text)

    async with serving(echo) as address, calling(address) as call:
        taking = asyncio.create_task(call.each(take))
        for text in "abcd":
            await call.write(Message(text=text))
        with pytest.raises(ValueError, match="b"):
            await taking
    assert taken == ["a", "b"]


async def test_taking_each_message_ends_with_the_calls_error() -> None:
    async def fail_late(context: Context) -> None:
        await context.write(Message(text="a"))
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    taken: list[Message] = []
    async with serving(fail_late) as address, calling(address) as call:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call.each(taken.append)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert taken == [Message(text="a")]


async def test_both_directions_go_on_far_past_the_first_credit() -> None:
    messages = [Message(text=f"{number}:" + "x" * (number * 997 % 70_000)) for number in range(600)]
    async with serving(echo) as address, calling(address) as call:

        async def write() -> None:
            for message in messages:
                await call.write(message)
            await call.done_writing()

        writing = asyncio.create_task(write())
        received = []
        while (message := await call.read()) is not grpc.aio.EOF:
            received.append(message)
        await writing
        assert received == messages


async def test_a_message_larger_than_all_credit_arrives() -> None:
    large = Message(text="x" * (20 << 20))
    async with serving(echo, max_receive_message_length=-1) as address, calling(address) as call:
        await call.write(large)
        assert await call.read() == large


async def test_an_error_has_its_code_and_words() -> None:
    async def refuse(context: Context) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no session 100 % like „this“\n")

    async with serving(refuse) as address, calling(address) as call:
        error = await error_of(call)
        assert (error.code(), error.details()) == (
            grpc.StatusCode.NOT_FOUND,
            "no session 100 % like „this“\n",
        )
        with pytest.raises(grpc.aio.AioRpcError):
            await call.write(Message(text="too late"))


async def test_what_came_before_an_error_is_read_first() -> None:
    async def fail_late(context: Context) -> None:
        for text in "abc":
            await context.write(Message(text=text))
        await context.abort(grpc.StatusCode.ABORTED, "enough")

    async with serving(fail_late) as address, calling(address) as call:
        await asyncio.sleep(0.1)
        assert [(await call.read()).text for _ in range(3)] == ["a", "b", "c"]  # type: ignore[attr-defined]
        assert (await error_of(call)).code() is grpc.StatusCode.ABORTED


async def test_a_method_that_there_is_not() -> None:
    async with serving(echo) as address, calling(address, "/test.Test/Nothing") as call:
        assert (await error_of(call)).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_cancelling_reaches_the_server() -> None:
    cancelled = asyncio.Event()

    async def wait(context: Context) -> None:
        try:
            await context.write(Message(text="here"))
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(wait) as address, calling(address) as call:
        await call.read()
        call.cancel()
        await asyncio.wait_for(cancelled.wait(), PATIENCE_S)
        assert (await error_of(call)).code() is grpc.StatusCode.CANCELLED


async def test_a_writer_waits_for_a_server_that_does_not_read() -> None:
    go_on = asyncio.Event()

    async def read_late(context: Context) -> None:
        await go_on.wait()
        await echo(context)

    async with serving(read_late) as address, calling(address) as call:
        num_written = 0

        async def write() -> None:
            nonlocal num_written
            for _ in range(200):
                await call.write(Message(text="x" * 100_000))
                num_written += 1
            await call.done_writing()

        writing = asyncio.create_task(write())
        await asyncio.sleep(0.3)
        assert num_written < 150
        go_on.set()
        num_read = 0
        while await call.read() is not grpc.aio.EOF:
            num_read += 1
        await writing
        assert num_read == 200


async def test_a_server_waits_for_a_reader_that_does_not_read() -> None:
    num_written = 0

    async def write(context: Context) -> None:
        nonlocal num_written
        for _ in range(400):
            await context.write(Message(text="x" * 100_000))
            num_written += 1

    async with serving(write) as address, calling(address) as call:
        await asyncio.sleep(0.5)
        assert num_written < 390
        num_read = 0
        while await call.read() is not grpc.aio.EOF:
            num_read += 1
        assert num_read == 400


async def test_nobody_is_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(grpc.aio.AioRpcError, match="cannot connect") as caught:
            await open_call(f"127.0.0.1:{taken.getsockname()[1]}", METHOD, Message, Message)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100, b"\0\0\0\1\0\0\0\0\1", b""]
)
async def test_a_peer_that_does_not_speak_http_2(answer: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server, calling(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as call:
        assert (await error_of(call)).code() is grpc.StatusCode.UNAVAILABLE


async def test_a_connection_that_breaks() -> None:
    async with (
        serving(echo) as address,
        cut_proxy(int(address.rpartition(":")[2])) as proxy,
        calling(f"127.0.0.1:{proxy.port}") as call,
    ):
        await call.write(Message(text="x"))
        await call.read()
        await proxy.cut()
        assert (await error_of(call)).code() is grpc.StatusCode.UNAVAILABLE


async def test_a_silent_peer_is_asked_once_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplex, "KEEPALIVE_S", 0.1)
    monkeypatch.setattr(duplex, "KEEPALIVE_TIMEOUT_S", 0.1)
    received = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            received.extend(data)

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with server, calling(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as call:
        error = await error_of(call)
        assert (error.code(), "silent" in (error.details() or "")) == (grpc.StatusCode.UNAVAILABLE, True)
    assert received.count(b"\0\0\x08\x06\0\0\0\0\0") == 1


async def test_a_peer_that_answers_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplex, "KEEPALIVE_S", 0.1)
    monkeypatch.setattr(duplex, "KEEPALIVE_TIMEOUT_S", 1.0)
    async with (
        serving(echo, **{"http2.min_recv_ping_interval_without_data_ms": 10}) as address,
        calling(address) as call,
    ):
        await asyncio.sleep(0.5)
        await call.write(Message(text="still here"))
        assert await call.read() == Message(text="still here")


async def test_a_server_that_drains_finishes_the_call() -> None:
    go_on = asyncio.Event()

    async def finish(context: Context) -> None:
        await context.write(Message(text="first"))
        await go_on.wait()
        await context.write(Message(text="last"))

    server, address = await start(finish)
    async with calling(address) as call:
        assert await call.read() == Message(text="first")
        stopping = asyncio.create_task(server.stop(10))
        await asyncio.sleep(0.1)
        go_on.set()
        assert await call.read() == Message(text="last")
        assert await call.read() is grpc.aio.EOF
        call.cancel()
        await stopping
