"""A chat template's `tojson`, within its limits: without escapes for HTML, as `transformers` has it."""

from __future__ import annotations

import json
from typing import Any

from tokenwire_services.tokenizer.template_limits import TemplateLimitError, limit, limit_number, tick
from tokenwire_services.tokenizer.template_values import size_of

_LONGEST_SEPARATOR = 16
_PIECES_A_TICK = 256
_SMALL_INDENT, _SMALL_SIZE = 8, 1 << 12
"""What is indented by so little and has so few parts, is not too long however deep they are."""
_LONGEST_ESCAPE, _LONGEST_ESCAPE_OF_CONTROL = 12, 6
"""Characters that stand for one beyond the basic plane, and for a control character."""


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """A value as JSON.

    Raises:
        TemplateLimitError: that is too long.
    """
    tick()
    if any(len(separator) > _LONGEST_SEPARATOR for separator in separators or ()):
        raise TemplateLimitError(f"the template separates by more than {_LONGEST_SEPARATOR} characters")
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    size = size_of(value)
    limit(size * (_LONGEST_ESCAPE if ensure_ascii else _LONGEST_ESCAPE_OF_CONTROL))
    if indent is None or (isinstance(indent, int) and indent <= _SMALL_INDENT and size <= _SMALL_SIZE):
        return encoder.encode(value)
    limit_number(len(indent) if isinstance(indent, str) else indent)
    pieces, size = [], 0
    for piece in encoder.iterencode(value):  # in Python: each indented line is made by itself
        size += len(piece)
        limit(size)
        pieces.append(piece)
        if not len(pieces) % _PIECES_A_TICK:
            tick()
    return "".join(pieces)
