"""A plan's decodes as arrays: what steps of them are told in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenwire_engine.scheduler.plan import PENDING, DecodeColumns, StepPlan


@dataclass(slots=True, frozen=True, eq=False)
class SteadyRows:
    """The rows of `DecodeColumns` as arrays, int64 `[num_rows]`, not to be changed."""

    slots: Sequence[int]
    """As the plan has them."""
    index: NDArray[np.int64]
    """The slots again."""
    bases: NDArray[np.int64]
    """Positions, less the plan's shift."""


class SteadyArrays:
    """Makes arrays of plans' columns, once for as long as the rows stay the same."""

    def __init__(self) -> None:
        self._rows = steady_rows(DecodeColumns())

    def of(self, columns: DecodeColumns) -> SteadyRows:
        """A plan's rows: the same object as for the plan before where they are the same."""
        if columns.slots is not self._rows.slots:
            self._rows = steady_rows(columns)
        return self._rows


def steady_rows(columns: DecodeColumns) -> SteadyRows:
    """Arrays of columns, made anew."""
    index, bases = (np.array(column, dtype=np.int64) for column in (columns.slots, columns.bases))
    return SteadyRows(columns.slots, index, bases)


@dataclass(slots=True, frozen=True)
class Decodes:
    """A plan's rows as columns, each row of one token, which samples the next."""

    slots: NDArray[np.int64]
    positions: NDArray[np.int64]
    token_ids: NDArray[np.int64]
    """`PENDING` where only the device knows."""

    def follow(self, before: Decodes) -> bool:
        """Whether they are the same rows, each one token further."""
        return np.array_equal(before.slots, self.slots) and np.array_equal(
            before.positions + 1, self.positions
        )

    def known_tokens(self) -> dict[str, NDArray[np.int64]]:
        """Tokens that the host knows, and their slots; empty when all are the device's own."""
        (places,) = np.nonzero(self.token_ids != PENDING)
        if not len(places):
            return {}
        return {"known_slots": self.slots[places], "known_tokens": self.token_ids[places]}


def decodes_of(plan: StepPlan, steady: SteadyArrays) -> Decodes | None:
    """None where a row is anything but a decode."""
    others = plan.scheduled
    if not all(len(row.token_ids) == 1 and row.samples and row.scored is None for row in others):
        return None
    rows = steady.of(plan.decodes)
    slots, positions = rows.index, rows.bases + plan.decodes.shift
    token_ids = np.full(plan.num_rows, PENDING, dtype=np.int64)
    if others:
        token_ids[len(slots) :] = [row.token_ids[0] for row in others]
        slots = np.append(slots, [row.slot for row in others])
        positions = np.append(positions, [row.start for row in others])
    return Decodes(slots, positions, token_ids)
