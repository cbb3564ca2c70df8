"""Reads request bodies as strict JSON, whatever they are: nothing in a body may cost more than a 400.

`orjson` refuses what the standard library lets through (NaN, lone surrogates) and what trips it (deep
nesting, integers of thousands of digits).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException


class JsonRequest(Request):
    """A request whose body is read by orjson."""

    async def json(self) -> Any:
        """The body as Python values.

        Raises:
            json.JSONDecodeError: it is not JSON.
        """
        return orjson.loads(await self.body())


class JsonRoute(APIRoute):
    """A route that takes JSON, which a missing content type is taken for."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with the request's body read by orjson."""
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            content_type = request.headers.get("content-type", "")
            media_type = content_type.partition(";")[0].strip().lower()
            if request.method == "POST" and media_type not in ("", "application/json"):
                message = f"Content type {content_type!r} is not supported; send application/json"
                raise HTTPException(415, message)
            return await handle(JsonRequest(request.scope, request.receive))

        return handle_json
