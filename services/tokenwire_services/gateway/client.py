"""The client that waits for a response, as the server's connection knows it.

ASGI tells of a client that hangs up only whoever waits for a message from it, and has all that is sent pass
through every layer around a response. A stream needs to know at once, and its events are many.
"""

from __future__ import annotations

import asyncio
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

    @classmethod
    def taken_from(cls, scope: Scope) -> Client:
        """The one that sent a request, for whoever answers it."""
        client: Client = scope.pop(_CLIENT)
        return client

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits any more."""
        return self._cycle.disconnected

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
        cycle = self._cycle
        is_plain = cycle.chunked_encoding and cycle.transport.get_extra_info("sslcontext") is None
        return cycle.transport if is_plain else None

    def hang_up(self) -> None:
        """The connection is lost."""
        self._cycle.disconnected = True
        self._cycle.message_event.set()
        if self.on_gone is not None:
            self.on_gone()
