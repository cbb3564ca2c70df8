"""One gRPC call with streams in both directions, on a connection of its own.

The wire is gRPC's, so the peer is any gRPC server; the event loop does all, without threads, see `http2.py`.
Errors are those of `grpc.aio`. A peer that falls silent is asked for a sign of life.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError, Message

from tokenwire_services.duplex.http2 import CANCEL, Http2Error, Http2Request
from tokenwire_services.wakeup import Wakeup

KEEPALIVE_S = 20.0
"""Of silence, after which the peer is asked for a sign of life."""
KEEPALIVE_TIMEOUT_S = 10.0
"""For it to come."""
_CONNECT_TIMEOUT_S = 20.0
_PREFIX_BYTES = 5
"""Before each message: whether it is compressed, and its length."""
_MAX_MESSAGE_BYTES = 64 << 20
_MOST_WAITING_BYTES = 8 << 20
"""Of messages that nobody has read; past it, nothing more is read from the socket."""

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
    """Connect to "host:port" and begin a call.

    Args:
        method: its path, such as "/package.Service/Method".
        sent, received: the types of its messages.

    Raises:
        grpc.aio.AioRpcError: UNAVAILABLE, when nobody answers there.
    """
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    call = DuplexCall[Sent, Received](address, method, received)
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            await loop.create_connection(lambda: call, host.strip("[]"), int(port))
    except OSError as error:  # a timeout is one, too
        reason = error.strerror or str(error) or "it does not answer"
        raise _error(grpc.StatusCode.UNAVAILABLE, f"cannot connect to {address}: {reason}") from None
    return call


class DuplexCall(asyncio.Protocol, Generic[Sent, Received]):
    """A call, written and read by one task each. Made by `open_call`."""

    def __init__(self, address: str, method: str, received: type[Received]) -> None:
        self._address = address
        self._parse = received.FromString
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", address),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "tokenwire"),
        ]
        self._http2 = Http2Request(headers)
        self._end: grpc.StatusCode | None = None
        self._details = ""
        """Why it ended, where that is not OK."""
        self._partial = bytearray()
        """The beginning of a message."""
        self._messages: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._readable = Wakeup()
        self._writable = Wakeup()
        self._is_writing_paused = False
        self._is_reading_paused = False
        self._has_heard = True
        """Whether anything came since it was last looked for."""
        self._is_asked = False

    async def read(self) -> Received | object:
        """The next message; `grpc.aio.EOF` once the call has ended well.

        Raises:
            grpc.aio.AioRpcError: it has ended otherwise.
        """
        while not self._messages:
            if self._end is grpc.StatusCode.OK:
                return grpc.aio.EOF
            if self._end is not None:
                raise _error(self._end, self._details)
            await self._readable.wait()
        data = self._messages.popleft()
        self._waiting_bytes -= len(data)
        if self._is_reading_paused and self._waiting_bytes <= _MOST_WAITING_BYTES // 2:
            self._is_reading_paused = False
            self._transport.resume_reading()
        try:
            return self._parse(data)
        except DecodeError as error:
            raise _error(grpc.StatusCode.INTERNAL, f"a message cannot be parsed: {error}") from error

    async def write(self, message: Sent) -> None:
        """Send a message, once the peer takes it.

        Raises:
            grpc.aio.AioRpcError: the call has ended.
        """
        payload = message.SerializeToString()
        data, sent = b"\0" + len(payload).to_bytes(4) + payload, 0
        while True:
            if self._end is not None:
                raise _error(self._end, self._details)
            if not self._is_writing_paused:
                sent = self._http2.send(data, sent)
                self._flush()
                if sent == len(data):
                    return
            await self._writable.wait()

    async def done_writing(self) -> None:
        """Nothing more is sent."""
        if self._end is None:
            self._http2.end()
            self._flush()

    def cancel(self) -> None:
        """End the call, at the peer too; does nothing when it has ended."""
        if self._end is None:
            self._http2.reset(CANCEL)
            self._flush()
            self._finish(grpc.StatusCode.CANCELLED, "the call was cancelled")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The connection is there: send the request's head."""
        self._transport = transport
        self._flush()
        self._keepalive = asyncio.get_running_loop().call_later(KEEPALIVE_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, and the call with it."""
        reason = f": {exc}" if exc is not None else ""
        self._finish(grpc.StatusCode.UNAVAILABLE, f"the connection to {self._address} broke{reason}")

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        """It is no more."""
        self._is_writing_paused = False
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Bytes from the peer."""
        if self._end is not None:
            return
        self._has_heard = True
        try:
            for part in self._http2.receive(data):
                self._partial += part
        except Http2Error as error:
            self._finish(grpc.StatusCode.UNAVAILABLE, f"cannot talk to {self._address}: {error}")
            return
        if self._partial:
            self._take_messages()
        if self._http2.is_over:
            self._finish(*self._status())
        elif self._http2.outgoing:  # credit, or an answer to what is no message
            self._flush()
        self._writable.set()

    def _take_messages(self) -> None:
        """Cut messages off the body."""
        partial, begin = self._partial, 0
        while len(partial) - begin >= _PREFIX_BYTES:
            body = begin + _PREFIX_BYTES
            end = body + int.from_bytes(partial[begin + 1 : body])
            if partial[begin] or end - body > _MAX_MESSAGE_BYTES:
                problem = f"a message is compressed, or larger than {_MAX_MESSAGE_BYTES} bytes"
                self._finish(grpc.StatusCode.RESOURCE_EXHAUSTED, problem)
                return
            if end > len(partial):
                break
            self._messages.append(bytes(partial[body:end]))
            self._waiting_bytes += end - body
            begin = end
        if begin:
            del partial[:begin]
            self._readable.set()
            if self._waiting_bytes > _MOST_WAITING_BYTES and not self._is_reading_paused:
                self._is_reading_paused = True
                self._transport.pause_reading()

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
        if self._end is None:
            self._end, self._details = code, details
            self._keepalive.cancel()
            if self._is_writing_paused:  # what is in the buffer may never be taken
                self._transport.abort()
            else:
                self._transport.close()
            self._readable.set()
            self._writable.set()

    def _flush(self) -> None:
        if self._http2.outgoing:
            self._transport.write(self._http2.outgoing)
            self._http2.outgoing = bytearray()

    def _look(self) -> None:
        """Ask a peer that fell silent for a sign of life, and give up on one that does not answer."""
        later = asyncio.get_running_loop().call_later
        if self._has_heard:
            self._has_heard = self._is_asked = False
            self._keepalive = later(KEEPALIVE_S, self._look)
        elif not self._is_asked:
            self._is_asked = True
            self._http2.ping()
            self._flush()
            self._keepalive = later(KEEPALIVE_TIMEOUT_S, self._look)
        else:
            self._transport.abort()
            self._finish(grpc.StatusCode.UNAVAILABLE, f"{self._address} has fallen silent")


def _error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)
