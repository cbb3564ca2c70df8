"""The table of errors: what each kind is as a gRPC status, as an HTTP status, and in OpenAI's error body.

Everything that goes wrong leaves the gateway as an `ApiError`: {"error": {"message", "type", "param",
"code"}}.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple

import grpc
import orjson
from starlette.responses import Response

from tokenwire.status import StatusError
from tokenwire_services.gateway.field_names import FieldNames


class Kind(NamedTuple):
    """What a kind of error is over HTTP."""

    status: int
    type: str
    code: str


INVALID = "invalid_request_error"
SERVER = "server_error"
UNSUPPORTED = "unsupported_parameter"

BY_GRPC_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: Kind(400, INVALID, "invalid_value"),
    grpc.StatusCode.OUT_OF_RANGE: Kind(400, INVALID, "invalid_value"),
    grpc.StatusCode.FAILED_PRECONDITION: Kind(400, INVALID, "failed_precondition"),
    grpc.StatusCode.UNIMPLEMENTED: Kind(400, INVALID, UNSUPPORTED),
    grpc.StatusCode.UNAUTHENTICATED: Kind(401, INVALID, "invalid_api_key"),
    grpc.StatusCode.PERMISSION_DENIED: Kind(403, INVALID, "permission_denied"),
    grpc.StatusCode.NOT_FOUND: Kind(404, INVALID, "model_not_found"),
    grpc.StatusCode.ALREADY_EXISTS: Kind(409, INVALID, "conflict"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: Kind(429, "rate_limit_error", "rate_limit_exceeded"),
    grpc.StatusCode.UNAVAILABLE: Kind(503, SERVER, "service_unavailable"),
    grpc.StatusCode.CANCELLED: Kind(503, SERVER, "cancelled"),
    grpc.StatusCode.ABORTED: Kind(503, SERVER, "aborted"),
    grpc.StatusCode.DEADLINE_EXCEEDED: Kind(504, SERVER, "timeout"),
    grpc.StatusCode.INTERNAL: Kind(500, SERVER, "internal_error"),
    grpc.StatusCode.UNKNOWN: Kind(500, SERVER, "internal_error"),
    grpc.StatusCode.DATA_LOSS: Kind(500, SERVER, "internal_error"),
}

BY_HTTP_STATUS = {
    400: Kind(400, INVALID, "invalid_request"),
    401: Kind(401, INVALID, "invalid_api_key"),
    404: Kind(404, INVALID, "unknown_url"),
    405: Kind(405, INVALID, "method_not_allowed"),
    408: Kind(408, INVALID, "request_timeout"),
    413: Kind(413, INVALID, "request_too_large"),
    415: Kind(415, INVALID, "unsupported_media_type"),
    431: Kind(431, INVALID, "request_head_too_large"),
    500: Kind(500, SERVER, "internal_error"),
}

_RETRYABLE = frozenset({429, 503})
_DEFAULT_RETRY_AFTER_S = 1.0


@dataclass(slots=True, frozen=True)
class ApiError:
    """An error as OpenAI's clients know it."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def body(self) -> bytes:
        """The JSON body."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return orjson.dumps({"error": error})

    def response(self) -> Response:
        """The HTTP response."""
        return Response(self.body(), self.status, dict(self.headers), media_type="application/json")

    @classmethod
    def from_http(cls, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> ApiError:
        """An error that HTTP itself knows."""
        fallback = BY_HTTP_STATUS[400 if status < HTTPStatus.INTERNAL_SERVER_ERROR else 500]
        kind = BY_HTTP_STATUS.get(status, fallback)
        return cls(status, kind.type, kind.code, message, headers=headers)

    @classmethod
    def from_status(cls, error: StatusError, names: FieldNames | None = None) -> ApiError:
        """An error that came over gRPC, or would have; `names` are what its fields are called in JSON."""
        kind = BY_GRPC_STATUS.get(error.code, BY_HTTP_STATUS[500])
        param, message = None, error.message
        if error.field is not None and names is not None:
            param = names.json_path(error.field)
            message = message.replace(error.field, param, 1)
        elif error.code is grpc.StatusCode.NOT_FOUND:
            param = "model"
        headers: tuple[tuple[str, str], ...] = ()
        if kind.status in _RETRYABLE:
            seconds = _DEFAULT_RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
            headers = (("retry-after", str(max(1, math.ceil(seconds)))),)
        code = error.reason.lower() if error.reason else kind.code
        return cls(kind.status, kind.type, code, message or code, param, headers)
