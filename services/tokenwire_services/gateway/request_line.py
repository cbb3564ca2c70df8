"""Spellings of a request that mean the same: slashes too many in its path, HEAD for a GET without its body.

Clients make the first of a base URL that ends in a slash, monitors send the second. Both are settled before
anything else looks at the request, so that no spelling of a path passes the API keys by.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class PlainRequests:
    """The outermost layer: all others see one spelling."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if "//" in path or (path.endswith("/") and path != "/"):
                scope["path"] = "/" + "/".join(filter(None, path.split("/")))
            if scope["method"] == "HEAD":
                scope = {**scope, "method": "GET"}  # the server's own still says that no body is to be sent
        await self._app(scope, receive, send)
