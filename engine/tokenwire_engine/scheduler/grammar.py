"""What the scheduler knows of a language that a request's output must belong to.

A grammar's state is the output so far, so it lives with the request: it outlasts a preemption, and a request
that moves to another engine gets it back by feeding it the tokens again.
"""

from __future__ import annotations

from typing import Protocol


class Grammar(Protocol):
    """One sample's place in its language. Used from one thread at a time."""

    @property
    def is_finished(self) -> bool:
        """Whether the output is complete and nothing can follow it."""

    @property
    def error(self) -> str:
        """Why `accept` refused a token."""

    def accept(self, token_id: int) -> bool:
        """Take in the next token of the output. False: no output of the language goes on with it, or the
        grammar ran into its limits; it is of no use any more."""

    def mask(self) -> bytes:
        """Which tokens may come next, one bit for each: token t's is bit t % 32 of little-endian int32 word
        t // 32. When nothing may, what ends the output."""

    def forced(self) -> list[int]:
        """Tokens that can only follow, in order; none of them is taken in. Empty where there is a choice."""

    def copy(self) -> Grammar:
        """The same place, to go on from independently. Takes microseconds."""
