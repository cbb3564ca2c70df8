"""How long a filter, a string's method or a format may work in a chat template, and how much text it makes.

Nothing interrupts them, so what they are given is looked at first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from tokenwire_services.tokenizer.template_limits import (
    MAX_NUMBER,
    TemplateLimitError,
    limit,
    limit_items,
    limit_number,
    tick,
)
from tokenwire_services.tokenizer.template_values import bounded, size_of

_MOST_AT_A_TIME = 1 << 18
"""Characters, lines or entries that a filter works on one by one, which nothing interrupts."""
_MOST_DIGITS = 1300
"""Of an integer."""
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_AT_ONCE = frozenset(
    {"capitalize", "center", "count", "d", "default", "e", "escape", "first", "forceescape", "format"}
    | {"indent", "last", "length", "lower", "replace", "safe", "string", "trim", "truncate", "upper"}
)
"""Filters that take no longer for a text than it takes to copy it (for `indent`, of few lines)."""
_MAKES_TEXT = frozenset(
    {"capitalize", "center", "e", "escape", "forceescape", "format", "indent", "join", "lower", "pprint"}
    | {"replace", "safe", "string", "striptags", "title", "trim", "truncate", "upper", "urlencode", "urlize"}
    | {"wordcount", "wordwrap", "xmlattr"}
)


def bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of jinja2's that looks at what it is given."""
    passes = getattr(function, "jinja_pass_arg", None)

    def bounded_call(*args: Any, **kwargs: Any) -> Any:
        tick()
        args = tuple(map(bounded, args))
        given = args if passes is None else args[1:]
        further = (*given[1:], *kwargs.values())
        if name not in _AT_ONCE and isinstance(given[0], str | list | tuple | dict):
            _limit_work(len(given[0]))
        if name == "sum" and any(isinstance(argument, list | tuple) for argument in further):
            raise TemplateLimitError("the template sums what is no number")
        for argument in further:
            if name != "default" and name != "d":
                limit_number(argument)
        if name in _MAKES_TEXT:
            size_of(given[0])
            if name == "format":
                check_format(str(given[0]), further)
            elif name == "replace" and len(further) >= 2:
                _check_replacement(str(given[0]), further[0], further[1])
            elif name in ("join", "indent", "wordwrap"):
                text = max((len(a) for a in further if isinstance(a, str)), default=0)
                width = max((a for a in further if isinstance(a, int)), default=0)
                pieces = given[0].count("\n") + 1 if isinstance(given[0], str) else _length(given[0])
                limit(pieces * max(text, width))
                _limit_work(pieces)
        return bounded(function(*args, **kwargs))

    if passes is not None:
        bounded_call.jinja_pass_arg = passes  # type: ignore[attr-defined]
    return bounded_call


def check_format(text: str, values: Iterable[object]) -> None:
    """Look at a format string, whose widths must be numbers of a few digits, written out; and at what is
    written with it, as often as there are places for it."""
    numbers = re.findall(r"\d+", text)
    if any(len(digits) > 5 for digits in numbers):
        raise TemplateLimitError("the template formats with a number of more than 5 digits")
    if ("*" in text and "%" in text) or ":{" in text:
        raise TemplateLimitError("the template computes the width of a format")
    places = text.count("%") + text.count("{")
    most = sum(map(size_of, values)) + _MOST_DIGITS
    limit(len(text) + sum(map(int, numbers)) + places * most)


def check_text_method(text: str, method: str, arguments: tuple[Any, ...]) -> None:
    """Look at a call of a string's method."""
    match method:
        case "translate" | "encode":
            raise TemplateLimitError(f"the template may not call {method}")
        case "split" | "rsplit":
            separator = next((argument for argument in arguments if isinstance(argument, str)), "")
            most = [argument for argument in arguments if isinstance(argument, int) and argument >= 0]
            limit_items(min(text.count(separator) if separator else len(text) // 2, *most, len(text)))
        case "splitlines":
            limit_items(sum(map(text.count, _LINE_ENDS)))
        case "replace" if len(arguments) >= 2:
            _check_replacement(text, arguments[0], arguments[1])
        case "join" if arguments:
            limit(size_of(arguments[0]) + len(text) * _length(arguments[0]))
        case "center" | "ljust" | "rjust" | "zfill" | "expandtabs":
            for argument in arguments:
                limit_number(argument)


def _check_replacement(text: str, old: object, new: object) -> None:
    if isinstance(old, str) and isinstance(new, str):
        limit(len(text) + text.count(old) * len(new))


def _limit_work(count: int) -> None:
    """Refuse to begin what takes long, and cannot be interrupted."""
    if count > _MOST_AT_A_TIME:
        raise TemplateLimitError(
            f"the template has a filter work on more than {_MOST_AT_A_TIME} characters, lines or entries"
        )


def _length(value: object) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else MAX_NUMBER
