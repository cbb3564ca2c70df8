"""How much a chat template may do: the time it takes, the text it writes, the size of what it makes.

Whoever renders does so while `limited`; what renders calls `tick` again and again, and looks at what may make
a value larger than its parts before it is made. What goes too far raises TemplateLimitError.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jinja2

MAX_SECONDS = 2.0
"""For one rendering."""
MAX_CHARS = 32 << 20
"""In any one value, its parts counted as often as they occur; and written out in all."""
_MAX_NUMBER = 100_000
"""Where a number says how much text is made, as a width does."""
_MAX_BITS = 4096
"""In an integer."""


class _Budget:
    """What one rendering may still use."""

    __slots__ = ("deadline", "num_chars")

    def __init__(self) -> None:
        self.deadline = time.monotonic() + MAX_SECONDS
        self.num_chars = MAX_CHARS


_budget: ContextVar[_Budget] = ContextVar("budget")


class TemplateLimitError(jinja2.TemplateError):
    """A template takes too long, or makes something too large."""


@contextmanager
def limited() -> Iterator[None]:
    """Where a template runs: the time is counted from here."""
    token = _budget.set(_Budget())
    try:
        yield
    finally:
        _budget.reset(token)


def tick(num_chars: int = 0) -> bool:
    """Count text that is written out, and look at the clock. True, to stand in a condition."""
    budget = _budget.get()
    if num_chars:
        budget.num_chars -= num_chars
        if budget.num_chars < 0:
            limit(MAX_CHARS + 1)
    if time.monotonic() > budget.deadline:
        raise TemplateLimitError(f"the template takes longer than {MAX_SECONDS:g} seconds")
    return True


def bounded(text: str) -> str:
    """Text that was put together, unless it is too long."""
    limit(len(text))
    return text


def limit(size: int) -> None:
    """Refuse to make a value of so many characters, or entries."""
    if size > MAX_CHARS:
        raise TemplateLimitError(f"the template makes a value of more than {MAX_CHARS} characters")


def limit_number(number: object) -> None:
    """Refuse a number that says how much text is made, if it is one."""
    if isinstance(number, int) and abs(number) > _MAX_NUMBER:
        raise TemplateLimitError(f"the template asks for {number:.3g} characters; at most {_MAX_NUMBER}")


def check_product(left: Any, right: Any) -> None:
    """Look at `left * right`, of numbers or of a text and how often it is repeated."""
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > _MAX_BITS:
            raise TemplateLimitError("the template computes a number that is too large")
        return
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | list | tuple) and isinstance(times, int):
            limit(len(value) * max(times, 0))


def check_power(base: Any, exponent: Any) -> None:
    """Look at `base ** exponent`."""
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * exponent > _MAX_BITS:
        raise TemplateLimitError("the template computes a number that is too large")


def check_format(text: str) -> None:
    """Look at a format string: its widths must be numbers of a few digits, written out."""
    digits = 0
    for character in text:
        digits = digits + 1 if character.isdigit() else 0
        if digits > 5:
            raise TemplateLimitError("the template formats with a number of more than 5 digits")
    if ("*" in text and "%" in text) or ":{" in text:
        raise TemplateLimitError("the template computes the width of a format")


def check_text_method(text: str, method: str, arguments: tuple[Any, ...]) -> None:
    """Look at a call of a string's method."""
    match method:
        case "translate":
            raise TemplateLimitError("the template may not call translate")
        case "replace" if len(arguments) >= 2:
            _check_replacement(text, arguments[0], arguments[1])
        case "join" if arguments:
            limit(_size(arguments[0]) + len(text) * _length(arguments[0]))
        case "center" | "ljust" | "rjust" | "zfill" | "expandtabs":
            for argument in arguments:
                limit_number(argument)


def _check_replacement(text: str, old: object, new: object) -> None:
    if isinstance(old, str) and isinstance(new, str):
        limit(len(text) + text.count(old) * len(new))


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
        given = args if passes is None else args[1:]
        further = (*given[1:], *kwargs.values())
        for argument in further:
            if name != "default" and name != "d":
                limit_number(argument)
        if name in _MAKES_TEXT:
            check_size(given[0])
            if name == "format":
                check_format(str(given[0]))
            elif name == "replace" and len(further) >= 2:
                _check_replacement(str(given[0]), further[0], further[1])
            elif name in ("join", "indent", "wordwrap"):
                text = max((len(a) for a in further if isinstance(a, str)), default=0)
                width = max((a for a in further if isinstance(a, int)), default=0)
                pieces = given[0].count("\n") + 1 if isinstance(given[0], str) else _length(given[0])
                limit(pieces * max(text, width))
        return function(*args, **kwargs)

    if passes is not None:
        bounded_call.jinja_pass_arg = passes  # type: ignore[attr-defined]
    return bounded_call


def _length(value: object) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else _MAX_NUMBER


def count_output(value: Any) -> Any:
    """The value, counted as written out."""
    tick(_size(value))
    return value


def check_size(value: object) -> None:
    """Refuse a value that is too large to be written out."""
    if isinstance(value, list | tuple | dict):
        _size(value)


def _size(value: object) -> int:
    """Characters in a value, at least."""
    if isinstance(value, str):
        return len(value)
    size, values = 0, [value]
    while values:
        match values.pop():
            case str(text):
                size += len(text)
            case list() | tuple() as items:
                size += len(items)
                values += items
            case dict() as items:
                size += len(items)
                values += items.keys()
                values += items.values()
        limit(size)
    return size
