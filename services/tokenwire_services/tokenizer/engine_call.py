"""The stream that carries a link's session with its engine: opened or resumed, read, and written to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import grpc

from tokenwire.duplex.call import DuplexCall, open_call
from tokenwire.v1 import engine_pb2
from tokenwire_services.tokenizer.engine_health import ENGINE_SERVICE
from tokenwire_services.tokenizer.engine_session import Command, EngineSession

Call = DuplexCall[Command, engine_pb2.SessionResponse]

_SESSION = f"/{ENGINE_SERVICE}/Session"


class EngineLostError(Exception):
    """The connection is over, without a gRPC status saying why."""


async def open_session(address: str, session: EngineSession) -> Call:
    """Open the session over a new stream, or resume it.

    Raises:
        AioRpcError: the engine cannot be reached, or refuses the stream.
        EngineLostError: the engine has forgotten the session; the next attempt opens a new one.
    """
    call: Call = await open_call(address, _SESSION, engine_pb2.SessionRequest, engine_pb2.SessionResponse)
    try:
        # A stream that is refused breaks under the write; reading says why.
        with contextlib.suppress(grpc.aio.AioRpcError):
            await call.write(session.opening())
        first = await _next_response(call)
    except BaseException as error:
        call.cancel()
        if not isinstance(error, grpc.aio.AioRpcError) or error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        session.move()
        raise EngineLostError("it has forgotten the session") from error
    session.opened(first.opened)
    return call


async def each_response(call: Call, receive: Callable[[engine_pb2.SessionResponse], None]) -> None:
    """Have all that the engine says received, as it comes; always ends with an exception.

    Raises:
        AioRpcError: the stream broke.
        EngineLostError: the engine ended it.
        Exception: what `receive` raised.
    """
    await call.each(receive)
    raise EngineLostError("it ended the session")


async def send_commands(call: Call, session: EngineSession) -> None:
    """Send a session's commands in order, until the call breaks, which its reader reports."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        while True:
            await call.write(await session.next_command())


async def _next_response(call: Call) -> engine_pb2.SessionResponse:
    """What the engine says next; raises as `each_response` does."""
    message = await call.read()
    if isinstance(message, engine_pb2.SessionResponse):
        return message
    raise EngineLostError("it ended the session")
