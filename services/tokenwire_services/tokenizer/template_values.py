"""How large the values are that a chat template makes, looked at before they are made, or used.

What a value holds twice counts twice: comparing it, writing it out, or any other such work, which nothing
interrupts, does not see that the two are the same. So a list of ten lists of ten of the same list and so on,
which takes no memory to speak of, is refused as soon as it is made, and no value in reach of a template takes
longer than a moment to work on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tokenwire_services.tokenizer.template_limits import (
    TemplateLimitError,
    limit,
    limit_items,
    tick,
)

_MAX_BITS = 4096
"""In an integer."""


def bounded(value: Any) -> Any:
    """A value that was made of others, unless it is too large. What is made one by one is looked at so."""
    if isinstance(value, list | tuple | dict):
        size_of(value)
    return _count(value) if isinstance(value, Iterator) else value


def _count(values: Iterator[Any]) -> Iterator[Any]:
    size = 0
    for value in values:
        size += size_of(value) + 1
        limit(size)
        yield value


def bounded_all(values: Iterable[object]) -> None:
    """Look at values that come to be held together."""
    containers = [value for value in values if isinstance(value, list | tuple | dict)]
    if containers:
        size_of(containers)


def size_of(value: object) -> int:
    """Characters in a value, at least.

    Raises:
        TemplateLimitError: it is too large.
    """
    if isinstance(value, str):
        return len(value)
    size, num_items, values = 0, 0, [value]
    while values:
        match values.pop():
            case str(text):
                size += len(text)
                limit(size)
            case list() | tuple() as items:
                tick()
                num_items += len(items)
                limit_items(num_items)
                values += items
            case dict() as items:
                tick()
                num_items += len(items)
                limit_items(num_items)
                values += items.keys()
                values += items.values()
    return size + num_items


def check_product(left: Any, right: Any) -> None:
    """Look at `left * right`, of numbers or of a text and how often it is repeated."""
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > _MAX_BITS:
            raise TemplateLimitError("the template computes a number that is too large")
        return
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | list | tuple) and isinstance(times, int):
            if not isinstance(value, str):
                limit_items(len(value) * max(times, 0))
            limit(size_of(value) * max(times, 0))


def check_sum(left: Any, right: Any) -> None:
    """Look at `left + right`."""
    if isinstance(left, str) and isinstance(right, str):
        limit(len(left) + len(right))
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
        bounded_all((left, right))


def check_power(base: Any, exponent: Any) -> None:
    """Look at `base ** exponent`."""
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * exponent > _MAX_BITS:
        raise TemplateLimitError("the template computes a number that is too large")


def concatenate(*parts: object) -> str:
    """The texts of these values in a row, unless that is too long."""
    limit(sum(map(size_of, parts)))
    return "".join(map(str, parts))


def count_output(value: Any) -> Any:
    """The value, counted as written out."""
    tick(size_of(value))
    return value
