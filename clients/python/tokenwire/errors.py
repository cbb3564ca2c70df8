"""What a call of the client raises.

    TokenwireError
    ├── InvalidRequestError        a value in the request is not allowed; `field` says which
    │   └── UnsupportedError       ... by this version of the server
    ├── NotFoundError              no such model (or adapter, ...)
    ├── UnavailableError           the server cannot answer now; `retry_after_s` says when to try again
    │   └── OverloadedError        ... because it has too much to do
    ├── DeadlineExceededError      the `timeout` passed
    ├── CancelledError             the call was cancelled: its stream was closed, or its client
    └── InternalError              the server failed; not the request's fault

A request that raised UnavailableError may be sent again as it is; the others will fail again.
"""

from __future__ import annotations

import grpc

from tokenwire.status import StatusError


class TokenwireError(Exception):
    """A call that failed.

    Attributes:
        message: what was wrong, what was expected, what to do.
        code: name of the gRPC status, such as "INVALID_ARGUMENT".
        field: path of the request field at fault, such as "sampling.top_p", where there is one.
        retry_after_s: seconds after which a retry may succeed, where the server said so.
    """

    def __init__(
        self, message: str, code: str, field: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.field = field
        self.retry_after_s = retry_after_s


class InvalidRequestError(TokenwireError):
    """A value in the request is not allowed; `field` says which."""


class UnsupportedError(InvalidRequestError):
    """The request asks for what this version of the server does not do; `field` says what."""


class NotFoundError(TokenwireError):
    """What the request names, such as a model, is not served."""


class UnavailableError(TokenwireError):
    """The server cannot be reached or cannot answer now; try again, after `retry_after_s` where it is set."""


class OverloadedError(UnavailableError):
    """The server has too much to do; try again, after `retry_after_s` where it is set."""


class DeadlineExceededError(TokenwireError):
    """The call's `timeout` passed before it was complete."""


class CancelledError(TokenwireError):
    """The call was cancelled while it was being waited for."""


class InternalError(TokenwireError):
    """The server failed, or answered with something that this client does not know."""


_ERRORS: dict[str, type[TokenwireError]] = {
    "INVALID_ARGUMENT": InvalidRequestError,
    "FAILED_PRECONDITION": InvalidRequestError,
    "OUT_OF_RANGE": InvalidRequestError,
    "ALREADY_EXISTS": InvalidRequestError,
    "UNIMPLEMENTED": UnsupportedError,
    "NOT_FOUND": NotFoundError,
    "UNAVAILABLE": UnavailableError,
    "RESOURCE_EXHAUSTED": OverloadedError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "CANCELLED": CancelledError,
}


def error_from_status(status: StatusError) -> TokenwireError:
    """The exception that stands for a failed call's status."""
    kind = _ERRORS.get(status.code.name, InternalError)
    return kind(status.message, status.code.name, status.field, status.retry_after_s)


def error_from_call(error: grpc.RpcError) -> TokenwireError:
    """The exception that stands for a failed call."""
    assert isinstance(error, grpc.aio.AioRpcError | grpc.Call)
    return error_from_status(StatusError.from_call(error))
