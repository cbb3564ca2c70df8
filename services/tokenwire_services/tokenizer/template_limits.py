"""How much a chat template may do: the time it takes, what it writes, what it makes, what it holds.

Whoever renders does so while `limited`; what renders calls `tick` again and again. What goes too far raises
TemplateLimitError.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jinja2

from tokenwire_services.tokenizer.template_memory import MANY, MAX_HELD_BYTES, Notes

MAX_SECONDS = 2.0
"""For one rendering, or all that a request has its own template do."""
MAX_CHARS = 32 << 20
"""In any one value, its parts counted as often as they occur; and written out in all."""
MAX_ITEMS = 1 << 18
"""In any one list or dictionary, those of its parts counted as often as they occur."""
MAX_NUMBER = 100_000
"""Where a number says how much text is made, as a width does."""
MAX_BITS = 4096
"""In an integer."""
MAX_NODES = 1 << 15
"""In a template's syntax tree: compiling takes up to 40 µs and 5 KB for each."""


class _Budget:
    """What may still be used."""

    __slots__ = ("deadline", "notes", "num_chars")

    def __init__(self) -> None:
        self.deadline = time.monotonic() + MAX_SECONDS
        self.num_chars = MAX_CHARS
        self.notes = Notes()


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


def hold(value: object, num_bytes: int) -> None:
    """Count a value that was made, for as long as it is held."""
    if not _budget.get().notes.add(value, num_bytes):
        raise _holds_too_much()


def hold_short(text: str) -> None:
    """Count a text of up to SHORT characters that was made, for as long as it is held."""
    notes = _budget.get().notes
    notes.small.append(text)
    if len(notes.small) >= MANY and not notes.add_small():
        raise _holds_too_much()


def _holds_too_much() -> TemplateLimitError:
    return TemplateLimitError(f"the template holds more than {MAX_HELD_BYTES} bytes")


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
    if isinstance(number, int) and abs(number) > MAX_NUMBER:
        raise TemplateLimitError(f"the template asks for {number:.3g} characters; at most {MAX_NUMBER}")


def limit_bits(*numbers: object) -> None:
    """Refuse to compute with, or to, integers of so many bits, if they are any."""
    for number in numbers:
        if isinstance(number, int) and number.bit_length() > MAX_BITS:
            raise TemplateLimitError("the template computes a number that is too large")
