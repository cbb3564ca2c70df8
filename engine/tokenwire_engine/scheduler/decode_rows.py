"""The rows of a step that only decode, as columns: what takes them all through a step at once.

They do not change once they are made: a step keeps those that it was planned with, and steps that compute
the same requests one after the other share them.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import compress
from typing import Any, NamedTuple

from tokenwire_engine.scheduler.request import NO_ROW, Request


class Columns(NamedTuple):
    """Entry i of each belongs to row i."""

    requests: Sequence[Request] = ()
    bases: Sequence[int] = ()
    """The position of each one's token, less the batch's shift."""
    slots: Sequence[int] = ()
    outputs: Sequence[list[int]] = ()
    """Where their next tokens are appended."""
    channels: Sequence[int] = ()
    labels: Sequence[int] = ()
    sample_indices: Sequence[int] = ()


_NO_COLUMNS = Columns()


@dataclass(slots=True, frozen=True)
class DecodeRows:
    """One row for each request."""

    columns: Columns = _NO_COLUMNS
    stop_token_ids: Set[int] = frozenset()
    """All stop tokens of the requests, and maybe others."""
    num_left: int = 0
    """How many requests had left the batch when they were made."""
    constrained: Sequence[int] = ()
    """Rows whose request has a grammar."""

    def __len__(self) -> int:
        return len(self.columns.requests)

    def divide(self, num_left: int) -> Division:
        """Now that so many requests have left the batch."""
        requests = self.columns.requests
        selectors = [request.decode_row != NO_ROW and request.grammar is None for request in requests]
        columns = Columns._make(tuple(compress(column, selectors)) for column in self.columns)
        return Division(
            self,
            num_left,
            DecodeRows(columns, self.stop_token_ids, self.num_left),
            selectors,
            [row for row, is_steady in enumerate(selectors) if not is_steady],
        )


@dataclass(slots=True, frozen=True)
class Division:
    """The rows of a step: those that are taken on together, and the others."""

    whole: DecodeRows
    num_left: int
    """How many requests had left the batch when it was made."""
    steady: DecodeRows
    """Of requests that were still in the batch and have no grammar."""
    selectors: Sequence[bool]
    """Of each row, whether it is one of them."""
    others: Sequence[int]
    """Where the other rows are."""


NO_DIVISION = Division(DecodeRows(), 0, DecodeRows(), (), ())


def row_of(request: Request, base: int) -> tuple[Any, ...]:
    """What the columns have of a request."""
    return (
        request,
        base,
        request.slot,
        request.output_token_ids,
        request.channel,
        request.label,
        request.sampling.sample_index,
    )
