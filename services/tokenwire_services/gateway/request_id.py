"""Every response names its request in `x-request-id`: as the caller named it, else with a name of our own."""

from __future__ import annotations

import os
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenwire_services.gateway.headers import header

HEADER = "x-request-id"
_HEADER = HEADER.encode()
_SANE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class NameRequests:
    """Sets the response's x-request-id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = header(scope, _HEADER)
        name = given if _SANE.fullmatch(given) else f"req-{os.urandom(16).hex()}"

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (_HEADER, name.encode())]
            await send(message)

        await self._app(scope, receive, send_named)
