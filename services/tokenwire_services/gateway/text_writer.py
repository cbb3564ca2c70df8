"""Deltas that go from the tokenizer's message straight to the client's socket.

A step's text of hundreds of streams is written in one loop: no task wakes, no layer is passed, and of each
event only the JSON text is made. Nor is the connection's transport troubled, until the socket takes no more:
then it gets what is left, and further text is left to the response's task, which waits as it must.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence

import orjson

from tokenwire_services.gateway.client import Client


def _head(size: int) -> bytes:
    """What begins a chunk of so many bytes."""
    return b"%x\r\n" % size


_HEADS = [*map(_head, range(1024))]
"""By size: of nearly all events."""


class TextWriter:
    """Where text is written, in one event a piece: a chunk of a response whose head was sent.

    To be used by one writer a connection, from when it is free until it is stopped, or the protocol is told
    that the connection is lost: the socket is closed after that, and its number may be another one's.
    """

    __slots__ = ("_transport", "after", "before", "num_constant", "socket", "stop")

    def __init__(
        self, transport: asyncio.Transport, before: bytes, after: bytes, stop: Callable[[], None]
    ) -> None:
        self._transport = transport
        self.socket: int = transport.get_extra_info("socket").fileno()
        self.before = before
        self.after = after + b"\r\n"
        self.num_constant = len(before) + len(after)
        """Bytes of an event that are not its text's."""
        self.stop = stop

    @property
    def is_free(self) -> bool:
        """Whether it may be used: nothing waits in the transport that would have to be written first."""
        return not (self._transport.is_closing() or self._transport.get_write_buffer_size())

    def left(self, event: bytes) -> None:
        """The socket did not take this end of an event: it is the transport's, and this one to be stopped."""
        self.stop()
        with contextlib.suppress(RuntimeError):  # the transport is closed
            self._transport.write(event)


def write_texts(writers: Sequence[TextWriter], texts: Sequence[str]) -> None:
    """Write texts, in one event each. A writer whose socket does not take all of its event is stopped."""
    events = []
    for writer, json in zip(writers, map(orjson.dumps, texts), strict=True):
        size = writer.num_constant + len(json)
        head = _HEADS[size] if size < len(_HEADS) else _head(size)
        events.append(b"".join((head, writer.before, json, writer.after)))
    # One right after the other, so that what a write takes stays in the caches.
    for writer, event in zip(writers, events, strict=True):
        try:
            size = os.write(writer.socket, event)
        except OSError:  # it is full; or else the transport will find out what is wrong with it
            size = 0
        if size < len(event):
            writer.left(event[size:])


def text_writer(client: Client, before: bytes, after: bytes, stop: Callable[[], None]) -> TextWriter | None:
    """What writes text as it arrives.

    Args:
        client: of a response whose head was sent.
        before, after: what stands around the JSON text in an event.
        stop: called when the writer is not to be used for now.

    Returns:
        None where bytes cannot be written to the client as they are.
    """
    transport = client.transport
    return None if transport is None else TextWriter(transport, before, after, stop)
