"""Routes that take a JSON body, answered without the framework's layers.

FastAPI documents them; reading, validating and answering is done here, on bare ASGI, because a request costs
less than half of it that way. Nothing in a body may cost more than a 400: `orjson` refuses what the standard
library lets through (NaN, lone surrogates) and what trips it (deep nesting, integers of thousands of digits).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, get_type_hints

import orjson
from fastapi import Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenwire.status import StatusError
from tokenwire_services.gateway.errors import ApiError
from tokenwire_services.gateway.failures import answer_to
from tokenwire_services.gateway.validation import NO_BODY, explain, not_json

Answer = Callable[[Any], Awaitable[Response]]
"""An endpoint: an async function of its `body`."""


class JsonRoute(APIRoute):
    """A route that takes JSON, which a missing content type is taken for."""

    def __init__(self, path: str, endpoint: Answer, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self._endpoint = endpoint
        self._body = TypeAdapter[Any](get_type_hints(endpoint)["body"])
        self.app = self.answer

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a POST request, as an ASGI application."""
        try:
            _check_content_type(scope)
            body = self._read(await _receive(receive))
            response = body.response() if isinstance(body, ApiError) else await self._endpoint(body)
        except (StatusError, HTTPException) as error:
            response = answer_to(error, scope)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    def _read(self, data: bytes) -> Any:
        """A valid body, or what is wrong with it."""
        if not data:
            return NO_BODY
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            return not_json(error.msg)
        try:
            return self._body.validate_python(value, from_attributes=True)
        except ValidationError as error:
            return explain(error.errors(include_url=False), value)


class PassJsonRoutes:
    """Hands requests to those routes, and all others to the application that documents them."""

    def __init__(self, app: ASGIApp, routes: Iterable[object]) -> None:
        self._app = app
        self._routes = {route.path: route for route in routes if isinstance(route, JsonRoute)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["path"]) if scope.get("method") == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
        else:
            scope["route"] = route
            await route.answer(scope, receive, send)


def _check_content_type(scope: Scope) -> None:
    content_type = Headers(scope=scope).get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in ("", "application/json"):
        raise HTTPException(415, f"Content type {content_type!r} is not supported; send application/json")


async def _receive(receive: Receive) -> bytes:
    """The whole body."""
    parts = []
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(event.get("body", b""))
        if not event.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)
