"""How large and how slow a request's body may be.

A body is refused by its declared length, by its real one as it arrives, and when it stops arriving.
"""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenwire_services.gateway.errors import ApiError

PIECE_TIMEOUT_S = 60.0
"""For the next piece of a body to arrive."""


class LimitBody:
    """Answers requests with too large a body with 413, with one that stops with 408.

    No more than the limit is ever kept in memory.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._max_body_bytes
        too_large = f"The request body is larger than {limit} bytes"
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > limit:
            await ApiError.from_http(413, too_large).response()(scope, receive, send)
            return
        received, is_whole = 0, False

        async def count() -> Message:
            nonlocal received, is_whole
            if is_whole:  # what remains to be received is that the client hangs up
                return await receive()
            try:
                async with asyncio.timeout(PIECE_TIMEOUT_S):
                    event = await receive()
            except TimeoutError:
                problem = f"The request body did not go on within {PIECE_TIMEOUT_S:g} seconds"
                raise HTTPException(408, problem, {"connection": "close"}) from None
            is_whole = not event.get("more_body", False)
            received += len(event.get("body", b""))
            if received > limit:
                raise HTTPException(413, too_large)
            return event

        await self._app(scope, count, send)
