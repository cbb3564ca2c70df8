"""JSON values that travel on as text, in a field of a protobuf message."""

from __future__ import annotations

from typing import Any

import orjson

from tokenwire.status import invalid_argument


def json_text(value: Any, field: str) -> str:
    """A JSON value as text, for a protobuf field of that path.

    Raises:
        StatusError: INVALID_ARGUMENT when it holds what JSON text cannot carry any further.
    """
    try:
        return orjson.dumps(value).decode()
    except TypeError as error:
        raise invalid_argument(field, str(error)) from None
