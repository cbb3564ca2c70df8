"""How much a chat template may do: the time it takes, the text it writes, the size of what it makes.

Whoever renders does so while `limited`; what renders calls `tick` again and again. What goes too far raises
TemplateLimitError.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jinja2

MAX_SECONDS = 2.0
"""For one rendering, or all that a request has its own template do."""
MAX_CHARS = 32 << 20
"""In any one value, its parts counted as often as they occur; and written out in all."""
MAX_ITEMS = 1 << 20
"""In any one list or dictionary, those of its parts counted as often as they occur."""
MAX_NUMBER = 100_000
"""Where a number says how much text is made, as a width does."""


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
    if isinstance(number, int) and abs(number) > MAX_NUMBER:
        raise TemplateLimitError(f"the template asks for {number:.3g} characters; at most {MAX_NUMBER}")
