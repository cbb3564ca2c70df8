"""Errors as they cross the wire: a gRPC status code with google.rpc details.

Every process raises `StatusError` where it finds that a request cannot be served, and `abort` turns it into
the call's status. The same details come back out of a failed call with `StatusError.from_call`, so that an
error survives any number of hops unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata key under which gRPC carries a serialized google.rpc.Status."""

CONTEXT_LENGTH_EXCEEDED = "CONTEXT_LENGTH_EXCEEDED"
"""Reason of a violation (`StatusError.reason`): a text longer than the model or the service takes."""

_MOST_TEXT_BYTES = 1024
"""Of a text that may quote the caller: a call's status is metadata, of which peers accept 8 KiB in all."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class StatusError(Exception):
    """A request that cannot be served, and why.

    Attributes:
        code: gRPC status code.
        message: what was wrong, what was expected, what to do; for people.
        details: google.rpc detail messages; for programs.
    """

    def __init__(self, code: grpc.StatusCode, message: str, details: Sequence[Message] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = tuple(details)

    @property
    def field(self) -> str | None:
        """Path of the request field that is at fault, such as "sampling.top_p"."""
        for detail in self.details:
            if isinstance(detail, error_details_pb2.BadRequest) and detail.field_violations:
                path: str = detail.field_violations[0].field
                return path
        return None

    @property
    def reason(self) -> str | None:
        """What is wrong with `field`, for programs, such as CONTEXT_LENGTH_EXCEEDED."""
        for detail in self.details:
            if isinstance(detail, error_details_pb2.BadRequest) and detail.field_violations:
                reason: str = detail.field_violations[0].reason
                return reason or None
        return None

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which a retry may succeed, where the server said so."""
        for detail in self.details:
            if isinstance(detail, error_details_pb2.RetryInfo):
                seconds: float = detail.retry_delay.ToTimedelta().total_seconds()
                return seconds
        return None

    def again(self) -> StatusError:
        """The same error, to be raised: one that is kept must not be itself, since each time that it is, the
        frames that it passes are kept with it, and all that they hold."""
        return StatusError(self.code, self.message, self.details)

    def to_proto(self) -> status_pb2.Status:
        """The error as a google.rpc.Status."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in self.details:
            status.details.add().Pack(detail)
        return status

    @classmethod
    def from_proto(cls, status: status_pb2.Status) -> StatusError:
        """The error that a google.rpc.Status stands for; details of unknown type are dropped."""
        details: list[Message] = []
        for packed in status.details:
            for kind in (
                error_details_pb2.BadRequest,
                error_details_pb2.RetryInfo,
                error_details_pb2.ResourceInfo,
            ):
                detail = kind()
                if packed.Unpack(detail):
                    details.append(detail)
        return cls(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message, details)

    @classmethod
    def from_call(cls, error: grpc.aio.AioRpcError | grpc.Call) -> StatusError:
        """The error behind a failed call (asynchronous or not), its details included."""
        for key, value in tuple(error.trailing_metadata() or ()):
            if key == DETAILS_KEY and isinstance(value, bytes):
                try:
                    return cls.from_proto(status_pb2.Status.FromString(value))
                except DecodeError:
                    break
        return cls(error.code(), error.details() or "")


def invalid_argument(field: str, problem: str, reason: str = "") -> StatusError:
    """A request field whose value is not allowed.

    Args:
        field: its path in the message.
        problem: what is wrong with it, for people; its middle is left out when it is very long.
        reason: the same for programs, where they can act on it.
    """
    problem = _shorten(problem)
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=problem, reason=reason)
    bad_request = error_details_pb2.BadRequest(field_violations=[violation])
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, f"{field}: {problem}", [bad_request])


def unimplemented(field: str, reason: str = "not supported by this version; leave it unset") -> StatusError:
    """A request field that this version, or this server as it was started, does not act on."""
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=reason)
    bad_request = error_details_pb2.BadRequest(field_violations=[violation])
    return StatusError(grpc.StatusCode.UNIMPLEMENTED, f"{field}: {reason}", [bad_request])


def not_found(kind: str, name: str, message: str) -> StatusError:
    """A named thing, such as a model, that is not here; very long texts lose their middle."""
    name, message = _shorten(name), _shorten(message)
    resource = error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name, description=message)
    return StatusError(grpc.StatusCode.NOT_FOUND, message, [resource])


def unavailable(message: str, retry_after_s: float | None = None) -> StatusError:
    """A server that cannot answer now, and when to try again."""
    return StatusError(grpc.StatusCode.UNAVAILABLE, message, _retry_info(retry_after_s))


def resource_exhausted(message: str, retry_after_s: float | None = None) -> StatusError:
    """A server that holds as much as it can, and when to try again."""
    return StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, message, _retry_info(retry_after_s))


async def abort(context: grpc.aio.ServicerContext[object, object], error: StatusError) -> NoReturn:
    """End a call with an error and its details."""
    trailing = ((DETAILS_KEY, error.to_proto().SerializeToString()),) if error.details else ()
    await context.abort(error.code, error.message, trailing)
    raise AssertionError("abort returned")


def _retry_info(retry_after_s: float | None) -> list[Message]:
    if retry_after_s is None:
        return []
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(round(retry_after_s * 1000))
    return [retry]


def _shorten(text: str) -> str:
    data = text.encode(errors="replace")
    if len(data) > _MOST_TEXT_BYTES:
        half = _MOST_TEXT_BYTES // 2 - 2
        data = data[:half] + b"..." + data[-half:]
    return data.decode(errors="ignore")
