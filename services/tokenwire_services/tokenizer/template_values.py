"""How large the values are that a chat template makes, looked at before they are made, or used.

What a value holds twice counts twice: comparing it, writing it out, or any other such work, which nothing
interrupts, does not see that the two are the same. So a list of ten lists of ten of the same list and so on,
which takes no memory to speak of, is refused as soon as it is made, and no value in reach of a template takes
longer than a moment to work on.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Set, ValuesView
from sys import getsizeof
from typing import Any

import jinja2
from markupsafe import Markup

from tokenwire_services.tokenizer.template_limits import (
    MAX_BITS,
    TemplateLimitError,
    hold,
    hold_short,
    limit,
    limit_bits,
    limit_items,
    tick,
)
from tokenwire_services.tokenizer.template_memory import SHORT

_LONGEST_ESCAPE = 10
"""Characters that stand for one within quotes."""
LONGEST_HTML_ESCAPE = 5
"""The same in what was marked as HTML: text that is added to it, or put into it, is escaped."""
_NUMBER_CHARS = 32
"""Of a number that is no integer, and of other things that are written by a name."""
_BITS_A_DIGIT = 3
_SMALL = 1 << 32
_ITEM_BYTES = 64
"""Of what a list that was made may hold at each place: a number, a character, a pair."""
_THING_BYTES = 512
"""Of a namespace, a generator and the like, without the values in it."""


def bounded(value: Any) -> Any:
    """A value that was made of others, unless it is too large. What is made one by one is looked at so."""
    kind = type(value)  # a namespace takes its time to answer what it is an instance of
    if kind is str:
        return value
    if issubclass(kind, list | tuple | dict):
        size_of(value)
    return _count(value) if issubclass(kind, Iterator) else value


def _count(values: Iterator[Any]) -> Iterator[Any]:
    size = 0
    for value in values:
        tick()
        size += size_of(value) + 1
        limit(size)
        yield made(value)


def bounded_all(values: Iterable[object]) -> None:
    """Look at values that come to be held together."""
    containers = [value for value in values if isinstance(value, list | tuple | dict)]
    if containers:
        size_of(containers)


def made(value: Any, num_bytes: int = 0) -> Any:
    """A value that was made, which counts from now on; small numbers are passed over.

    Args:
        value: where it holds others, these are small, or count already.
        num_bytes: what they take, where they do not.
    """
    kind = type(value)
    if kind is str and len(value) <= SHORT:
        hold_short(value)
    elif issubclass(kind, str):
        limit(len(value))
        hold(value, getsizeof(value))
    elif issubclass(kind, list | tuple | dict):
        hold(value, getsizeof(value) + _ITEM_BYTES * len(value) + num_bytes)
    elif issubclass(kind, int):
        limit_bits(value)
    elif value is not None and not issubclass(kind, float | jinja2.Undefined):
        hold(value, _THING_BYTES)
    return value


def put_together(value: Any) -> Any:
    """A list, tuple or dictionary that was made of values which count already."""
    size_of(value)
    hold(value, getsizeof(value))
    return value


def size_of(value: object) -> int:
    """Characters in a value, at least.

    Raises:
        TemplateLimitError: it is too large.
    """
    if isinstance(value, str):
        return len(value)
    size, num_items = 0, 0
    values: list[Any] = [value]
    while values:
        part = values.pop()
        kind = type(part)  # faster than a match, and there may be many
        if issubclass(kind, str):
            size += len(part)
            limit(size)
        elif kind is int:
            size += part.bit_length() // _BITS_A_DIGIT
        elif issubclass(kind, list | tuple | dict):
            tick()
            num_items += len(part)
            limit_items(num_items)
            values += part
            if issubclass(kind, dict):
                values += part.values()
    limit(size)
    return size + num_items


def size_written(value: object) -> int:
    """Characters that it takes to write a value out, at most; within it, one of a text may take several.

    Raises:
        TemplateLimitError: they are too many.
    """
    if isinstance(value, str):
        return len(value)
    size, values = size_of(value), [value]
    while values:
        match values.pop():
            case str(text):
                size += 2 + len(text) * (2 if text.isprintable() else _LONGEST_ESCAPE)
            case list() | tuple() as items:
                size += 2 * len(items)
                values += items
            case dict() as items:
                size += 4 * len(items)
                values += items.keys()
                values += items.values()
            case KeysView() | ValuesView() | ItemsView() as items:
                size += size_of([*items])
                values += items
            case _:
                size += _NUMBER_CHARS
        limit(size)
    return size


def growth_of(text: str) -> int:
    """Characters that may stand for one of what is added to a text, or put into it."""
    return LONGEST_HTML_ESCAPE if isinstance(text, Markup) else 1


def check_product(left: Any, right: Any) -> None:
    """Look at `left * right`, of numbers or of a text and how often it is repeated."""
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > MAX_BITS:
            raise TemplateLimitError("the template computes a number that is too large")
        return
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | list | tuple) and isinstance(times, int):
            if not isinstance(value, str):
                limit_items(len(value) * max(times, 0))
            limit(size_of(value) * max(times, 0))


def are_small_numbers(left: Any, right: Any) -> bool:
    """Whether these are integers whose sum, product and the like need no look."""
    return type(left) is int and type(right) is int and abs(left) < _SMALL and abs(right) < _SMALL


def is_short_sum(left: Any, right: Any) -> bool:
    """Whether `left + right` is a text of which nothing is to be looked at first."""
    return type(left) is str and type(right) is str and len(left) + len(right) <= SHORT


def check_sum(left: Any, right: Any) -> None:
    """Look at `left + right`."""
    if isinstance(left, str) and isinstance(right, str):
        limit((len(left) + len(right)) * max(growth_of(left), growth_of(right)))
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
        bounded_all((left, right))
    else:
        limit_bits(left, right)


def check_power(base: Any, exponent: Any) -> None:
    """Look at `base ** exponent`."""
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * exponent > MAX_BITS:
        raise TemplateLimitError("the template computes a number that is too large")


def check_numbers(left: Any, right: Any) -> None:
    """Look at an operator of numbers. It may be of two dictionaries' keys instead, and make a set of them: no
    other value's size goes by unseen."""
    if isinstance(left, Set) or isinstance(right, Set):
        raise TemplateLimitError("the template makes a set")
    limit_bits(left, right)


def concatenate(*parts: object) -> str:
    """The texts of these values in a row, unless that is too long."""
    limit(sum(map(size_written, parts)))
    return "".join(map(str, parts))


def count_output(value: Any) -> Any:
    """The value, counted as written out."""
    tick(len(value) if type(value) is str else size_written(value))
    return value
