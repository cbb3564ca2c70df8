"""An engine's errors in the terms of the caller's request."""

from __future__ import annotations

import re
from collections.abc import Sequence

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


_CONSTRAINT = "constraint"
_GRAMMAR = "constraint.grammar"
_PLACE = re.compile(r"at (\d+)\(\d+\): ")
"""Line and column, as the engine names them."""


def at_source(error: StatusError, sources: Sequence[str]) -> StatusError:
    """An error about a grammar that was written for the caller, about what the caller asked for.

    Args:
        sources: for each line of the grammar, the field that it was written for. The first is to blame where
            no line is named.
    """
    if sources and error.field == _CONSTRAINT:
        return at_field(error, _CONSTRAINT, sources[0])
    if not sources or not (error.field or "").startswith(_GRAMMAR):
        return error
    place = _PLACE.search(error.message)
    if place is None:
        return at_field(error, _GRAMMAR, sources[0])
    line = min(int(place[1]), len(sources)) - 1
    # The lines behind the first show the grammar, which the caller has never seen.
    message = error.message.partition("\n")[0].replace(place[0], "", 1)
    return at_field(StatusError(error.code, message, error.details), _GRAMMAR, sources[line])
