"""One end of a connection with one gRPC call: its messages, cut off what HTTP/2 brings and put into frames.

What both ends have in common. One task may read and one may write. A reader that falls behind has the socket
read no further, and a writer waits for the peer's credit. A peer that falls silent is asked for a sign of
life. What begins and ends a call is its owner's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from tokenwire.duplex.http2 import Http2Error, Http2Stream
from tokenwire.wakeup import Wakeup

MAX_MESSAGE_BYTES = 64 << 20
KEEPALIVE_S = 20.0
"""Of silence, after which the peer is asked for a sign of life."""
KEEPALIVE_TIMEOUT_S = 10.0
"""For it to come."""
_PREFIX_BYTES = 5
"""Before each message: whether it is compressed, and its length."""
_MOST_WAITING_BYTES = 8 << 20
"""Of messages that nobody has read; past it, nothing more is read from the socket."""


class Owner(Protocol):
    """A call, at this end of it."""

    def connected(self) -> None:
        """The connection is there."""

    def received(self) -> None:
        """Something came: messages, headers, or the end of the peer's side."""

    def refused(self, reason: str) -> None:
        """A message came that is not read."""

    def broke(self, reason: str) -> None:
        """The connection is gone, or no more can be understood of it."""


class Wire(asyncio.Protocol):
    """The connection of a call.

    Attributes:
        transport: there once the owner was told that it is.
        gone: done once it is no more.
    """

    transport: asyncio.Transport

    def __init__(self, http2: Http2Stream, owner: Owner, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._http2 = http2
        self._owner = owner
        self._max_message_bytes = max_message_bytes
        self._partial = bytearray()
        """The beginning of a message."""
        self._messages: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._take: Callable[[bytes], None] | None = None
        """What has each message as it comes, where none is to wait for a reader."""
        self._has_ended = False
        """Whether nothing more is read, `_read_error` saying why where that is not well."""
        self._read_error: Exception | None = None
        self._write_error: Exception | None = None
        self._is_closed = False
        self._closing: asyncio.TimerHandle | None = None
        self._readable = Wakeup()
        self._writable = Wakeup()
        self._is_writing_paused = False
        self._is_reading_paused = False
        self._has_heard = True
        """Whether anything came since it was last looked for."""
        self._is_asked = False
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def num_waiting(self) -> int:
        """Messages that nobody has read."""
        return len(self._messages)

    async def read(self) -> bytes | None:
        """The next message; None once all were read and the peer has said that there are no more.

        Raises:
            Exception: what reading was ended with, once all were read.
        """
        while not self._messages:
            if self._read_error is not None:
                raise self._read_error
            if self._has_ended:
                return None
            await self._readable.wait()
        return self._next()

    async def each(self, take: Callable[[bytes], None]) -> None:
        """Have every message taken where it is cut off, without a task in between, until there are no more.

        Raises:
            Exception: what reading was ended with, once all were taken, or what `take` raised.
        """
        while self._messages:
            take(self._next())
        self._take = take
        try:
            while not self._has_ended:
                await self._readable.wait()
        finally:
            self._take = None
        if self._read_error is not None:
            raise self._read_error

    async def write(self, message: bytes) -> None:
        """Send a message, once the peer takes it.

        Raises:
            Exception: what writing was ended with.
        """
        data, sent = b"\0" + len(message).to_bytes(4) + message, 0
        while True:
            if self._write_error is not None:
                raise self._write_error
            if not self._is_writing_paused:
                sent = self._http2.send(data, sent)
                self.flush()
                if sent == len(data):
                    return
            await self._writable.wait()

    def flush(self) -> None:
        """Have the peer get what is outgoing."""
        if self._http2.outgoing and not self._is_closed:
            self.transport.write(self._http2.outgoing)
            self._http2.outgoing = bytearray()

    def end_reading(self, error: Exception | None = None) -> None:
        """Nothing more comes; `error` says why where the peer did not say it."""
        if not self._has_ended:
            self._has_ended, self._read_error = True, error
            self._readable.set()

    def end_writing(self, error: Exception) -> None:
        """Nothing more can be sent."""
        if self._write_error is None:
            self._write_error = error
            self._writable.set()

    def close(self, patience_s: float = 0.0) -> None:
        """Take no more notice of the peer, and close the connection, unless it does so within `patience_s`.

        A connection that is closed while the peer still writes may be lost to it with all it has not read.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._keepalive.cancel()
        if patience_s:
            self._closing = asyncio.get_running_loop().call_later(patience_s, self.transport.abort)
        elif self._is_writing_paused:  # what is in the buffer may never be taken
            self.transport.abort()
        else:
            self.transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The connection is there: say what is said first."""
        self.transport = transport
        self._keepalive = asyncio.get_running_loop().call_later(KEEPALIVE_S, self._look)
        self.flush()
        self._owner.connected()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._is_closed = True
        self._keepalive.cancel()
        if self._closing is not None:
            self._closing.cancel()
        self.gone.set_result(None)
        self._owner.broke(f"the connection broke: {exc}" if exc is not None else "the connection broke")

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        """It is no more."""
        self._is_writing_paused = False
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Bytes from the peer."""
        if self._is_closed:
            return
        self._has_heard = True
        try:
            parts = self._http2.receive(data)
        except Http2Error as error:
            self._owner.broke(str(error))
            return
        if parts:
            self._take_messages(parts)
        self._owner.received()
        self.flush()  # credit, or an answer to what is no message
        self._writable.set()

    def _take_messages(self, parts: list[bytes]) -> None:
        """Cut messages off the body, of which these are the next parts."""
        body: bytes | bytearray = parts[0]
        if self._partial or len(parts) > 1:
            for part in parts:
                self._partial += part
            body = self._partial
        begin = 0
        while len(body) - begin >= _PREFIX_BYTES:
            message = begin + _PREFIX_BYTES
            end = message + int.from_bytes(body[begin + 1 : message])
            if body[begin] or end - message > self._max_message_bytes:
                self._owner.refused(
                    f"a message is compressed, or larger than {self._max_message_bytes} bytes"
                )
                return
            if end > len(body):
                break
            self._hand_on(bytes(body[message:end]))
            begin = end
        if body is self._partial:
            del self._partial[:begin]
        else:
            self._partial += body[begin:]
        if self._waiting_bytes > _MOST_WAITING_BYTES and not self._is_reading_paused:
            self._is_reading_paused = True
            self.transport.pause_reading()

    def _hand_on(self, message: bytes) -> None:
        """Let whoever reads have a message."""
        if self._take is None:
            self._messages.append(message)
            self._waiting_bytes += len(message)
            self._readable.set()
        elif not self._has_ended:
            try:
                self._take(message)
            except Exception as error:
                self.end_reading(error)

    def _next(self) -> bytes:
        """The first message that waits."""
        data = self._messages.popleft()
        self._waiting_bytes -= len(data)
        if self._is_reading_paused and self._waiting_bytes <= _MOST_WAITING_BYTES // 2:
            self._is_reading_paused = False
            self.transport.resume_reading()
        return data

    def _look(self) -> None:
        """Ask a peer that fell silent for a sign of life, and give up on one that does not answer."""
        later = asyncio.get_running_loop().call_later
        if self._has_heard or self._is_reading_paused:
            self._has_heard = self._is_asked = False
            self._keepalive = later(KEEPALIVE_S, self._look)
        elif not self._is_asked:
            self._is_asked = True
            self._http2.ping()
            self.flush()
            self._keepalive = later(KEEPALIVE_TIMEOUT_S, self._look)
        else:
            self._owner.broke("it has fallen silent")
            self.transport.abort()
