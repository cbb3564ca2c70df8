"""A gRPC call with streams in both directions, on a connection of its own, as its client has it.

The wire is gRPC's, so the peer is any gRPC server; the event loop does all, without threads, see `http2.py`.
Errors are those of `grpc.aio`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError, Message

from tokenwire.duplex.http2 import CANCEL, Http2Stream
from tokenwire.duplex.unix import UNIX, connect
from tokenwire.duplex.wire import Wire

_CONNECT_TIMEOUT_S = 20.0

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_BY_RESET_CODE = {
    0x7: grpc.StatusCode.UNAVAILABLE,
    0x8: grpc.StatusCode.CANCELLED,
    0xB: grpc.StatusCode.RESOURCE_EXHAUSTED,
    0xC: grpc.StatusCode.PERMISSION_DENIED,
}
_BY_HTTP_STATUS = {
    "401": grpc.StatusCode.UNAUTHENTICATED,
    "403": grpc.StatusCode.PERMISSION_DENIED,
    "404": grpc.StatusCode.UNIMPLEMENTED,
    "429": grpc.StatusCode.UNAVAILABLE,
    "502": grpc.StatusCode.UNAVAILABLE,
    "503": grpc.StatusCode.UNAVAILABLE,
    "504": grpc.StatusCode.UNAVAILABLE,
}

Sent = TypeVar("Sent", bound=Message)
Received = TypeVar("Received", bound=Message)


async def open_call(
    address: str, method: str, sent: type[Sent], received: type[Received]
) -> DuplexCall[Sent, Received]:
    """Connect and begin a call.

    Args:
        address: "host:port", or "unix:" and a socket's path.
        method: its path, such as "/package.Service/Method".
        sent, received: the types of its messages.

    Raises:
        grpc.aio.AioRpcError: UNAVAILABLE, when nobody answers there.
    """
    loop = asyncio.get_running_loop()
    call = DuplexCall[Sent, Received](address, method, received)
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            if address.startswith(UNIX):
                await loop.create_unix_connection(lambda: call.wire, sock=connect(address))
            else:
                host, _, port = address.rpartition(":")
                await loop.create_connection(lambda: call.wire, host.strip("[]"), int(port))
    except OSError as error:  # a timeout is one, too
        reason = error.strerror or str(error) or "it does not answer"
        raise _error(grpc.StatusCode.UNAVAILABLE, f"cannot connect to {address}: {reason}") from None
    return call


class DuplexCall(Generic[Sent, Received]):
    """A call, written and read by one task each. Made by `open_call`."""

    def __init__(self, address: str, method: str, received: type[Received]) -> None:
        self._address = address
        self._parse = received.FromString
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "localhost" if address.startswith(UNIX) else address),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "tokenwire"),
        ]
        self._http2 = Http2Stream.request(headers)
        self.wire = Wire(self._http2, self)
        self._is_over = False

    async def read(self) -> Received | object:
        """The next message; `grpc.aio.EOF` once the call has ended well.

        Raises:
            grpc.aio.AioRpcError: it has ended otherwise.
        """
        data = await self.wire.read()
        return grpc.aio.EOF if data is None else self._parsed(data)

    async def each(self, take: Callable[[Received], None]) -> None:
        """Have every message taken as it arrives, without a task in between, until the call has ended well.

        Raises:
            grpc.aio.AioRpcError: it has ended otherwise.
            Exception: what `take` raised; nothing more is taken then.
        """
        await self.wire.each(lambda data: take(self._parsed(data)))

    def _parsed(self, data: bytes) -> Received:
        try:
            return self._parse(data)
        except DecodeError as error:
            raise _error(grpc.StatusCode.INTERNAL, f"a message cannot be parsed: {error}") from error

    async def write(self, message: Sent) -> None:
        """Send a message, once the peer takes it.

        Raises:
            grpc.aio.AioRpcError: the call has ended.
        """
        await self.wire.write(message.SerializeToString())

    async def done_writing(self) -> None:
        """Nothing more is sent."""
        if not self._is_over:
            self._http2.end()
            self.wire.flush()

    def cancel(self) -> None:
        """End the call, at the peer too; does nothing when it has ended."""
        if not self._is_over:
            self._http2.reset(CANCEL)
            self.wire.flush()
            self._finish(grpc.StatusCode.CANCELLED, "the call was cancelled")

    def connected(self) -> None:
        """The request's head was sent."""

    def received(self) -> None:
        """Something came, which may be the end."""
        if self._http2.is_over:
            self._finish(*self._status())

    def refused(self, reason: str) -> None:
        """A message came that is not read."""
        self._finish(grpc.StatusCode.RESOURCE_EXHAUSTED, reason)

    def broke(self, reason: str) -> None:
        """The connection is of no more use."""
        self._finish(grpc.StatusCode.UNAVAILABLE, f"cannot talk to {self._address}: {reason}")

    def _status(self) -> tuple[grpc.StatusCode, str]:
        """What the peer ended the call with."""
        fields = self._http2.trailers
        if fields is None:
            code = _BY_RESET_CODE.get(self._http2.reset_code or 0, grpc.StatusCode.INTERNAL)
            return code, f"the peer reset the call, with code {self._http2.reset_code}"
        number = fields.get("grpc-status", "")
        if not number.isdecimal():
            status = (self._http2.headers or {}).get(":status", "none")
            return _BY_HTTP_STATUS.get(status, grpc.StatusCode.UNKNOWN), f"no gRPC status; HTTP's is {status}"
        code = _CODES.get(int(number), grpc.StatusCode.UNKNOWN)
        return code, unquote(fields.get("grpc-message", ""))

    def _finish(self, code: grpc.StatusCode, details: str) -> None:
        """The call has ended; what was received before can still be read."""
        if not self._is_over:
            self._is_over = True
            error = _error(code, details)
            self.wire.end_reading(None if code is grpc.StatusCode.OK else error)
            self.wire.end_writing(error)
            self.wire.close()


def _error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)
