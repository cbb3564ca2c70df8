"""How large and how slow a request's body may be, and how much of all bodies is kept.

A body is refused by its declared length, by its real one as it arrives, when it stops arriving, and when it
is not there at once while too much of others waits for the rest of them.
"""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenwire.status import unavailable
from tokenwire_services.gateway.client import Client
from tokenwire_services.gateway.errors import ApiError
from tokenwire_services.gateway.headers import header

PIECE_TIMEOUT_S = 60.0
"""For the next piece of a body to arrive."""
RETRY_AFTER_S = 1.0
MAX_INCOMPLETE_BYTES = 512 << 20
"""Of all bodies together that have begun to arrive."""


class LimitBody:
    """Answers requests with too large a body with 413, with one that stops with 408, one too many with 503.

    Of one body no more than its limit is kept, and of all that are incomplete no more than theirs, unless
    there is only one.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._incomplete_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._max_body_bytes
        too_large = f"The request body is larger than {limit} bytes"
        declared = header(scope, b"content-length", "0")
        if declared.isdecimal() and int(declared) > limit:
            await ApiError.from_http(413, too_large).response()(scope, receive, send)
            return
        client = Client.of(scope)
        received, is_whole, kept = 0, False, 0

        def keep(num_bytes: int) -> None:
            nonlocal kept
            self._incomplete_bytes += num_bytes - kept
            kept = num_bytes

        async def count() -> Message:
            nonlocal received, is_whole
            if is_whole:  # what remains to be received is that the client hangs up
                return await receive()
            event = await (receive() if client.has_sent_all else _in_time(receive))
            is_whole = not event.get("more_body", False)
            received += len(event.get("body", b""))
            if received > limit:
                raise HTTPException(413, too_large)
            keep(0 if is_whole else received)
            if 0 < kept < self._incomplete_bytes > MAX_INCOMPLETE_BYTES:
                raise unavailable("too many request bodies are on their way; try again", RETRY_AFTER_S)
            return event

        try:
            await self._app(scope, count, send)
        finally:
            keep(0)


async def _in_time(receive: Receive) -> Message:
    """The next piece of a body, which is still on its way.

    Raises:
        HTTPException: it does not come.
    """
    try:
        async with asyncio.timeout(PIECE_TIMEOUT_S):
            return await receive()
    except TimeoutError:
        problem = f"The request body did not go on within {PIECE_TIMEOUT_S:g} seconds"
        raise HTTPException(408, problem, {"connection": "close"}) from None
