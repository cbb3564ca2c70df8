"""How much a chat template may do: the time it takes, the text it writes, the size of what it makes.

Whoever renders does so while `limited`; what renders calls `tick` again and again, and looks at what may make
a value larger than its parts before it is made. What goes too far raises TemplateLimitError.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jinja2

MAX_SECONDS = 2.0
"""For one rendering, or all that a request has its own template do."""
MAX_CHARS = 32 << 20
"""In any one value, its parts counted as often as they occur; and written out in all."""
MAX_ITEMS = 1 << 20
"""In any one list or dictionary, those of its parts counted as often as they occur."""
_MOST_AT_A_TIME = 1 << 18
"""Characters, lines or entries that a filter works on one by one, which nothing interrupts."""
_MAX_NUMBER = 100_000
"""Where a number says how much text is made, as a width does."""
_MAX_BITS = 4096
"""In an integer."""


class _Budget:
    """What may still be used."""

    __slots__ = ("deadline", "num_chars")

    def __init__(self) -> None:
        self.deadline = time.monotonic() + MAX_SECONDS
        self.num_chars = MAX_CHARS


_budget: ContextVar[_Budget] = ContextVar("budget")


class TemplateLimitError(jinja2.TemplateError):
    """A template takes too long, or makes something too large."""


@contextmanager
def limited() -> Iterator[None]:
    """Where a template runs: the time is counted from here, unless it is counted already."""
    if _budget.get(None) is not None:
        yield
        return
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


def limit(size: int) -> None:
    """Refuse to make a value of so many characters, or entries."""
    if size > MAX_CHARS:
        raise TemplateLimitError(f"the template makes a value of more than {MAX_CHARS} characters")


def limit_items(count: int) -> None:
    """Refuse to make a list or a dictionary of so many entries."""
    if count > MAX_ITEMS:
        raise TemplateLimitError(f"the template makes a value of more than {MAX_ITEMS} entries")


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
            (limit if isinstance(value, str) else limit_items)(len(value) * max(times, 0))


def check_sum(left: Any, right: Any) -> None:
    """Look at `left + right`."""
    if isinstance(left, str) and isinstance(right, str):
        limit(len(left) + len(right))
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
        limit_items(len(left) + len(right))


def check_power(base: Any, exponent: Any) -> None:
    """Look at `base ** exponent`."""
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * exponent > _MAX_BITS:
        raise TemplateLimitError("the template computes a number that is too large")


def check_format(text: str, values: Iterable[object]) -> None:
    """Look at a format string: its widths must be numbers of a few digits, written out. And at what is to be
    written with it."""
    for value in values:
        check_size(value)
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
            limit(_size(arguments[0]) + len(text) * _length(arguments[0]))
        case "center" | "ljust" | "rjust" | "zfill" | "expandtabs":
            for argument in arguments:
                limit_number(argument)


def _check_replacement(text: str, old: object, new: object) -> None:
    if isinstance(old, str) and isinstance(new, str):
        limit(len(text) + text.count(old) * len(new))


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
        args = tuple(map(counted, args))
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
            check_size(given[0])
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
        return function(*args, **kwargs)

    if passes is not None:
        bounded_call.jinja_pass_arg = passes  # type: ignore[attr-defined]
    return bounded_call


def counted(values: Any) -> Any:
    """What is made one by one, counted as it is made; any other value is itself."""
    return _count(values) if isinstance(values, Iterator) else values


def _count(values: Iterator[Any]) -> Iterator[Any]:
    size = 0
    for value in values:
        size += _size(value) + 1
        limit(size)
        yield value


def _limit_work(count: int) -> None:
    """Refuse to begin what takes long, and cannot be interrupted."""
    if count > _MOST_AT_A_TIME:
        raise TemplateLimitError(
            f"the template has a filter work on more than {_MOST_AT_A_TIME} characters, lines or entries"
        )


def concatenate(*parts: object) -> str:
    """The texts of these values in a row, unless that is too long."""
    limit(sum(map(_size, parts)))
    return "".join(map(str, parts))


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
    size, num_items, values = 0, 0, [value]
    while values:
        match values.pop():
            case str(text):
                size += len(text)
                limit(size)
            case list() | tuple() as items:
                num_items += len(items)
                limit_items(num_items)
                values += items
            case dict() as items:
                num_items += len(items)
                limit_items(num_items)
                values += items.keys()
                values += items.values()
    return size + num_items
