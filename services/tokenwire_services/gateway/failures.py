"""What is answered to a request that failed, whatever it failed with."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from tokenwire.status import StatusError
from tokenwire_services.gateway.errors import ApiError
from tokenwire_services.gateway.field_names import FieldNames

_NAMES = {
    "/v1/chat/completions": FieldNames("chat"),
    "/v1/completions": FieldNames("completions"),
    "/tokenize": FieldNames("tokenize"),
    "/detokenize": FieldNames("detokenize"),
}
"""What endpoints call the fields that errors from below name."""


def answer_to(error: Exception, scope: Scope) -> Response:
    """The response to a request that failed with this."""
    match error:
        case StatusError():
            return ApiError.from_status(error, _NAMES.get(scope["path"])).response()
        case HTTPException():
            headers = tuple((error.headers or {}).items())
            return ApiError.from_http(error.status_code, _words(error, scope), headers).response()
        case _:
            message = "The server had an error while processing the request"
            return ApiError.from_http(500, message).response()


async def on_error(request: Request, error: Exception) -> Response:
    """The same, for a framework's table of handlers."""
    return answer_to(error, request.scope)


def _words(error: HTTPException, scope: Scope) -> str:
    if error.status_code == 404:
        return f"Unknown request URL: {scope['method']} {scope['path']}; see /docs"
    if error.status_code == 405:
        return f"Method {scope['method']} is not allowed for {scope['path']}; see /docs"
    return error.detail
