"""The client that waits for a response, as the server's connection knows it.

ASGI tells of a client that hangs up only whoever waits for a message from it, and has all that is sent pass
through every layer around a response. A stream needs to know at once, and its events are many.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from starlette.types import Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_CLIENT = "tokenwire.client"


class Client:
    """Who sent one request.

    Attributes:
        on_gone: called when the connection is lost before the response is complete, while it is still there
            to be closed.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        cycle.scope[_CLIENT] = self  # type: ignore[literal-required]
        self.on_gone: Callable[[], None] | None = None
        self._cycle = cycle
        self._transport = cycle.transport

    @classmethod
    def of(cls, scope: Scope) -> Client:
        """The one that sent a request."""
        client: Client = scope[_CLIENT]
        return client

    @classmethod
    def taken_from(cls, scope: Scope) -> Client:
        """The one that sent a request, for whoever answers it."""
        client: Client = scope.pop(_CLIENT)
        return client

    def leave(self) -> None:
        """The response is complete: nobody asks the request for its client any more. As long as each of the
        two knows the other, both stay until the garbage is collected."""
        self._cycle.scope.pop(_CLIENT, None)  # type: ignore[misc]

    @property
    def has_sent_all(self) -> bool:
        """Whether the request's body is here."""
        return not self._cycle.more_body

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits any more."""
        return self._cycle.disconnected

    @property
    def is_being_answered(self) -> bool:
        """Whether the response has begun and is not complete."""
        return self._cycle.response_started and not self._cycle.response_complete

    @property
    def is_answered(self) -> bool:
        """Whether the response is complete."""
        return self._cycle.response_complete

    @property
    def send(self) -> Send:
        """What sends it messages past all layers. These look at a response's head only."""
        return self._cycle.send  # type: ignore[return-value]

    @property
    def transport(self) -> asyncio.Transport | None:
        """Its connection, for chunks of a body that are written to it; None where that is not possible."""
        is_plain = self._cycle.chunked_encoding and self._transport.get_extra_info("sslcontext") is None
        return self._transport if is_plain else None

    def begin_stream(self) -> None:
        """A head that says no length is sent next: it waits for what follows it, to go out in one piece.

        To HTTP/1.0 such a body ends with the connection, since it knows no chunks.
        """
        self._cycle.transport = _HeldHead(self._cycle)
        if self._cycle.scope["http_version"] == "1.0":
            self._cycle.chunked_encoding = False
            self._cycle.expected_content_length = sys.maxsize

    def let_head_go(self) -> None:
        """Send a head that waits, for nothing follows it yet."""
        if isinstance(self._cycle.transport, _HeldHead):
            self._cycle.transport.write(b"")

    async def end_stream(self, body: bytes) -> None:
        """Send the last of a stream."""
        if not self._cycle.chunked_encoding:
            self._cycle.expected_content_length = len(body)
        await self._cycle.send({"type": "http.response.body", "body": body})

    def hang_up(self) -> None:
        """The connection is lost."""
        self._cycle.disconnected = True
        self._cycle.waiting_for_100_continue = False
        self._cycle.message_event.set()
        if self.on_gone is not None:
            self.on_gone()


class _HeldHead(asyncio.Transport):
    """Stands for a transport until it has been written to twice: once the head, once more."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._transport = cycle.transport
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:  # type: ignore[override]
        if self._head is None:
            self._head = data
            return
        self._cycle.transport = self._transport
        self._transport.write(self._head + data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._cycle.transport = self._transport
        self._transport.write(self._head or b"")
        self._transport.close()
