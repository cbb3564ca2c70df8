"""Routes that take a JSON body, answered without the framework's layers.

FastAPI documents them; reading, validating and answering is done here, on bare ASGI, because a request costs
less than half of it that way. Nothing in a body may cost more than a 400: `orjson` refuses what the standard
library lets through (NaN, lone surrogates) and what trips it (deep nesting, integers of thousands of digits).

Fields that nobody knows are passed over, but not silently: the response names them in a header.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any, get_type_hints

import orjson
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenwire.status import StatusError
from tokenwire_services.gateway.errors import ApiError
from tokenwire_services.gateway.failures import answer_to
from tokenwire_services.gateway.headers import header
from tokenwire_services.gateway.validation import NO_BODY, explain, not_json

IGNORED_HEADER = "x-tokenwire-ignored"
"""Names the fields of a request's body that nobody knows."""

_SANE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MOST_NAMES = 16

Answer = Callable[[Any], Awaitable[ASGIApp]]
"""An endpoint: an async function of its `body`. What it returns is the response."""


class JsonRoute(APIRoute):
    """A route that takes JSON, which a missing content type is taken for."""

    def __init__(self, path: str, endpoint: Answer, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self._endpoint = endpoint
        body = TypeAdapter[Any](get_type_hints(endpoint, include_extras=True)["body"])
        self._validate = body.validator.validate_python
        self.app = self.answer

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a POST request, as an ASGI application."""
        ignored: Collection[str] = ()
        try:
            _check_content(scope)
            read = self._read(await _receive(receive))
            if isinstance(read, ApiError):
                response: ASGIApp = read.response()
            else:
                body, ignored = read
                response = await self._endpoint(body)
        except (StatusError, HTTPException) as error:
            response = answer_to(error, scope)
        except ClientDisconnect:
            return
        await response(scope, receive, _naming(ignored, send) if ignored else send)

    def _read(self, data: bytes) -> tuple[Any, Collection[str]] | ApiError:
        """A valid body and the names of further fields, or what is wrong with it."""
        if not data:
            return NO_BODY
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            return not_json(error.msg)
        try:
            body = self._validate(value, from_attributes=True)
        except ValidationError as error:
            return explain(error.errors(include_url=False), value)
        return body, value.keys() - type(body).__pydantic_fields__.keys()


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


def _naming(ignored: Collection[str], send: Send) -> Send:
    """What sends a response, with a header that names ignored fields."""
    names = ",".join(sorted(filter(_SANE_NAME.fullmatch, ignored))[:_MOST_NAMES])

    async def send_named(message: Message) -> None:
        if message["type"] == "http.response.start" and names:
            MutableHeaders(scope=message)[IGNORED_HEADER] = names
        await send(message)

    return send_named


def _check_content(scope: Scope) -> None:
    encoding = header(scope, b"content-encoding", "identity")
    if encoding.lower() != "identity":
        raise HTTPException(415, f"Content encoding {encoding!r} is not supported; send the body as it is")
    content_type = header(scope, b"content-type")
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
