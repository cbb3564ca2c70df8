"""Deltas that go from the tokenizer's message straight to the client's socket.

A step's text of hundreds of streams is written in one loop: no task wakes, no layer is passed, and of each
event only the JSON text is made. Nor is the connection's transport troubled, until the socket takes no more:
then it gets what is left, and further text is left to the response's task, which waits as it must.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

import orjson

from tokenwire_services.gateway.client import Client


class TextWriter:
    """Writes text in one event, as a chunk of a response whose head was sent.

    To be used by one writer a connection, from when it is free until it is stopped, or the protocol is told
    that the connection is lost: the socket is closed after that, and its number may be another one's.
    """

    __slots__ = ("_after", "_before", "_num_constant", "_socket", "_stop", "_transport")

    def __init__(
        self, transport: asyncio.Transport, before: bytes, after: bytes, stop: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._socket: int = transport.get_extra_info("socket").fileno()
        self._before = before
        self._after = after + b"\r\n"
        self._num_constant = len(before) + len(after)
        self._stop = stop

    @property
    def is_free(self) -> bool:
        """Whether it may be used: nothing waits in the transport that would have to be written first."""
        return not (self._transport.is_closing() or self._transport.get_write_buffer_size())

    def event(self, text: str) -> bytes:
        """The event with a text."""
        json = orjson.dumps(text)
        return b"%x\r\n%b%b%b" % (self._num_constant + len(json), self._before, json, self._after)

    def write(self, event: bytes) -> None:
        """Write an event. What the socket does not take is the transport's, and this one is to be stopped."""
        try:
            size = os.write(self._socket, event)
        except OSError:  # it is full; or else the transport will find out what is wrong with it
            size = 0
        if size < len(event):
            self._stop()
            with contextlib.suppress(RuntimeError):  # the transport is closed
                self._transport.write(event[size:])


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
