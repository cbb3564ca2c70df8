"""An engine's errors in the terms of the caller's request."""

from __future__ import annotations

from google.protobuf.message import Message
from google.rpc import error_details_pb2

from tokenwire.status import StatusError


def at_field(error: StatusError, engine_field: str, field: str) -> StatusError:
    """The error with `engine_field`, at the beginning of a field's path, called `field`."""
    details: list[Message] = []
    for detail in error.details:
        if isinstance(detail, error_details_pb2.BadRequest):
            renamed = error_details_pb2.BadRequest()
            renamed.CopyFrom(detail)
            for violation in renamed.field_violations:
                if violation.field.startswith(engine_field):
                    violation.field = field + violation.field.removeprefix(engine_field)
            detail = renamed
        details.append(detail)
    return StatusError(error.code, error.message.replace(engine_field, field), details)
