"""Calls served on a Unix socket, each on a connection of its own, in the event loop alone.

The wire is gRPC's, so the peer may be any gRPC client. There is one method. What a call costs on top of its
messages is a small part of what the gRPC library's threads cost; that serves all methods, on all networks.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar
from urllib.parse import quote

import grpc
from google.protobuf.message import DecodeError, Message

from tokenwire.duplex.http2 import Http2Stream
from tokenwire.duplex.served_call import BrokenCallError, ServedCall
from tokenwire.duplex.unix import socket_name
from tokenwire.duplex.wire import MAX_MESSAGE_BYTES, Wire
from tokenwire.status import DETAILS_KEY, StatusError, invalid_argument

log = logging.getLogger(__name__)

HEAD_TIMEOUT_S = 20.0
"""For a connection to say what it is for."""
_CLOSE_TIMEOUT_S = 5.0
"""For a peer to take how its call ended, and to close the connection."""
_HEADERS = [(":status", "200"), ("content-type", "application/grpc")]
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")

Received = TypeVar("Received", bound=Message)
Sent = TypeVar("Sent", bound=Message)
Handler = Callable[[ServedCall[Received, Sent]], Awaitable[None]]


class CallServer:
    """What listens. Made by `serve_calls`."""

    def __init__(self, server: asyncio.Server, path: str, wires: set[Wire]) -> None:
        """`wires`: the connections that there are."""
        self._server = server
        self._path = path
        self._file = None if path.startswith("\0") else os.stat(path)
        self._wires = wires

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, let those that were begun go on for so long, and break off the rest."""
        self.close()
        if self._wires:
            await asyncio.wait([wire.gone for wire in self._wires], timeout=grace_s)
        if self._wires:
            for wire in self._wires:
                wire.transport.abort()
            await asyncio.wait([wire.gone for wire in self._wires])

    def close(self) -> None:
        """Take no more calls; those that were begun go on."""
        self._server.close()
        with contextlib.suppress(FileNotFoundError):
            # Not the socket of a successor, which has taken the path over.
            if self._file is not None and os.path.samestat(os.stat(self._path), self._file):
                os.unlink(self._path)


async def serve_calls(
    path: str,
    method: str,
    received: type[Received],
    handle: Handler[Received, Sent],
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> CallServer:
    """Listen, and have each call handled.

    Args:
        path: of the socket, which only this user may connect to, or "@" and a name, which all users may.
        method: the one that is served, such as "/package.Service/Method".
        received: the type of its requests.
        handle: serves one call, see `ServedCall`.
        max_message_bytes: of a request.

    Raises:
        OSError: the socket cannot be listened on; names it, and the system's reason.
    """
    name = socket_name(path)
    wires: set[Wire] = set()

    def accept() -> Wire:
        wire = SocketCall[Received, Sent](method, received, handle, max_message_bytes).wire
        wires.add(wire)
        wire.gone.add_done_callback(lambda _: wires.remove(wire))
        return wire

    mask = os.umask(0o177)
    try:
        server = await asyncio.get_running_loop().create_unix_server(accept, name)
    except OSError as error:
        raise OSError(f"cannot listen on {path}: {error.strerror or error}") from error
    finally:
        os.umask(mask)
    return CallServer(server, name, wires)


class SocketCall(Generic[Received, Sent]):
    """A call on a connection of its own, as a `ServedCall`."""

    def __init__(
        self,
        method: str,
        received: type[Received],
        handle: Handler[Received, Sent],
        max_message_bytes: int,
    ) -> None:
        self._method = method
        self._parse = received.FromString
        self._handle = handle
        self._http2 = Http2Stream.response()
        self.wire = Wire(self._http2, self, max_message_bytes)
        self._task: asyncio.Task[None] | None = None
        self._has_answered = False
        self._is_over = False

    async def read(self) -> Received | None:
        """See `ServedCall`."""
        data = await self.wire.read()
        return None if data is None else self._parsed(data)

    async def each(self, take: Callable[[Received], None]) -> None:
        """See `ServedCall`."""
        await self.wire.each(lambda data: take(self._parsed(data)))

    async def write(self, message: Sent) -> None:
        """See `ServedCall`."""
        if not self._has_answered:
            self._has_answered = True
            self._http2.send_headers(_HEADERS)
        await self.wire.write(message.SerializeToString())

    def connected(self) -> None:
        """A peer is there, which shall say what it is for."""
        self._timer = asyncio.get_running_loop().call_later(HEAD_TIMEOUT_S, self.broke, "it says nothing")

    def received(self) -> None:
        """Something came: the request's head, a message, or the end of the peer's side."""
        if self._task is None and self._http2.headers is not None:
            self._begin(self._http2.headers)
        if self._http2.reset_code is not None:
            self.broke(f"the peer reset the call, with code {self._http2.reset_code}")
        elif self._http2.trailers is not None:
            self.wire.end_reading()

    def refused(self, reason: str) -> None:
        """A message came that is not read."""
        self._finish(StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, reason))
        self._hang_up(reason)

    def broke(self, reason: str) -> None:
        """The peer is gone, or has given the call up."""
        self._is_over = True
        self._timer.cancel()
        self._hang_up(reason)
        self.wire.close()

    def _begin(self, headers: dict[str, str]) -> None:
        self._timer.cancel()
        self._http2.go_away()  # for its next call the peer connects again
        self._task = asyncio.create_task(self._serve(headers))

    async def _serve(self, headers: dict[str, str]) -> None:
        error: StatusError | None = None
        try:
            self._check(headers)
            await self._handle(self)
        except StatusError as failure:
            error = failure
        except BrokenCallError:
            pass
        except Exception:
            log.exception("a call failed")
            error = StatusError(grpc.StatusCode.INTERNAL, "the call failed; the server's log says why")
        self._finish(error)

    def _check(self, headers: dict[str, str]) -> None:
        path = headers.get(":path", "")
        if not headers.get("content-type", "").startswith("application/grpc") or path != self._method:
            message = f"{path!r} is not served at this socket; {self._method} is"
            raise StatusError(grpc.StatusCode.UNIMPLEMENTED, message)

    def _finish(self, error: StatusError | None) -> None:
        """Tell the peer how the call ended, which then closes the connection."""
        if self._is_over:
            return
        self._is_over = True
        fields = [] if self._has_answered else list(_HEADERS)
        code = grpc.StatusCode.OK if error is None else error.code
        fields.append(("grpc-status", str(code.value[0])))
        if error is not None:
            fields.append(("grpc-message", quote(error.message, safe=_PRINTABLE)))
            if error.details:
                details = base64.b64encode(error.to_proto().SerializeToString())
                fields.append((DETAILS_KEY, details.decode().rstrip("=")))
        self._http2.send_headers(fields, is_end=True)
        self.wire.flush()
        self.wire.close(_CLOSE_TIMEOUT_S)

    def _parsed(self, data: bytes) -> Received:
        try:
            return self._parse(data)
        except DecodeError as error:
            raise invalid_argument("request", f"cannot be decoded: {error}") from error

    def _hang_up(self, reason: str) -> None:
        """Nobody reads any more: let the handler know."""
        error = BrokenCallError(reason)
        self.wire.end_reading(error)
        self.wire.end_writing(error)
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
