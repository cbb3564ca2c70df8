"""The running requests that decode: each computes the token sampled last for it, and samples the next.

They are kept as columns, which a step moves on as a whole: however many there are, a request costs the host
something only where it comes to the end of a block, or to its limit. Requests that come to the ends of blocks
in the same step do so ever after, and are kept together; when a request comes to its limit is known when it
joins.

What a request in the batch says of its computed and pending tokens is out of date until it leaves.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import compress
from typing import Any

from tokenwire_engine.scheduler.cohort import Cohort
from tokenwire_engine.scheduler.decode_rows import NO_DIVISION, Columns, DecodeRows, row_of
from tokenwire_engine.scheduler.request import NO_ROW, Request


class DecodeBatch:
    """Its rows keep their places; one that leaves is replaced by the last.

    Attributes:
        shift: how many steps it has made. The next position of a row is its base plus that.
    """

    def __init__(self, block_size: int, num_groups: int) -> None:
        self.shift = 0
        self._requests: list[Request] = []
        self._bases: list[int] = []
        self._columns: tuple[list[Any], ...] = (self._requests, self._bases, [], [], [], [], [])
        """As `Columns` has them."""
        self._stop_token_ids: set[int] = set()
        """Of all who joined since it was empty."""
        self._num_left = 0
        self._rows: DecodeRows | None = None
        """As steps have them; None: they have changed."""
        self._division = NO_DIVISION
        """Of the rows that were split last."""
        self._cohorts = [Cohort(num_groups) for _ in range(block_size)]
        """By the place in its block of a request's base."""
        self._limits: dict[int, dict[int, Request]] = {}
        """Who comes to its limit after so many steps, by arrival number."""

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> None:
        """A step was planned that computes all of a request's tokens and samples the next, not its last."""
        request.decode_row = len(self)
        base = request.num_computed - self.shift
        for column, entry in zip(self._columns, row_of(request, base), strict=True):
            column.append(entry)
        self._stop_token_ids |= request.stop_token_ids
        self._rows = None
        self._cohort(base).add(request)
        self._limits.setdefault(_steps_to_limit(request, base), {})[request.arrival] = request

    def remove(self, request: Request) -> None:
        """A request gives way, has ended or cannot go on by itself: bring it up to date."""
        row, base = request.decode_row, self._bases[request.decode_row]
        request.num_computed = base + self.shift
        request.num_pending = request.num_computed + 1 - request.num_tokens
        self._requests[-1].decode_row = row
        for column in self._columns:
            column[row] = column[-1]
            column.pop()
        request.decode_row = NO_ROW
        if not self._requests:
            self._stop_token_ids = set()
        self._num_left += 1
        self._rows = None
        self._cohort(base).remove(request)
        steps = _steps_to_limit(request, base)
        del self._limits[steps][request.arrival]
        if not self._limits[steps]:
            del self._limits[steps]

    def position(self, request: Request) -> int:
        """What a request of the batch computes next."""
        return self._bases[request.decode_row] + self.shift

    def at_place(self, place: int) -> Cohort:
        """The requests whose next position is at a place in its block."""
        return self._cohort(place - self.shift)

    def at_limit(self) -> Collection[Request]:
        """The requests that compute nothing more: the last token of theirs is pending."""
        return self._limits.get(self.shift, {}).values()

    def advance(self) -> DecodeRows:
        """Move on by a step, with nobody at a limit; what it computes."""
        if self._rows is None:
            columns = Columns._make(map(tuple, self._columns))
            constrained = tuple(
                row for row, request in enumerate(self._requests) if request.grammar is not None
            )
            self._rows = DecodeRows(columns, self._stop_token_ids, self._num_left, constrained)
        self.shift += 1
        return self._rows

    def split(
        self, rows: DecodeRows, token_ids: Sequence[int]
    ) -> tuple[DecodeRows, Sequence[int], list[tuple[Request, int]]]:
        """The rows of a step that is done, and their tokens, of requests that are still in the batch and have
        no grammar; and the other requests, each with its token."""
        if rows.num_left == self._num_left and not rows.constrained:
            return rows, token_ids, []
        if self._division.whole is not rows or self._division.num_left != self._num_left:
            self._division = rows.divide(self._num_left)
        division, requests = self._division, rows.columns.requests
        others = [(requests[row], token_ids[row]) for row in division.others]
        return division.steady, tuple(compress(token_ids, division.selectors)), others

    def _cohort(self, base: int) -> Cohort:
        return self._cohorts[base % len(self._cohorts)]


def _steps_to_limit(request: Request, base: int) -> int:
    """How many steps the batch has made when a request has only its last token to come, which it does not
    compute."""
    return request.length_limit - 1 - base
