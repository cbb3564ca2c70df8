"""A plan's decodes as arrays: what steps of them are told in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenwire_engine.scheduler.plan import PENDING, DecodeColumns, StepPlan


class SteadyRows:
    """The columns of plans. While the rows stay the same, arrays are made of them only once."""

    def __init__(self) -> None:
        self._columns = DecodeColumns()
        self._slots = self._bases = np.empty(0, dtype=np.int64)

    def arrays(self, columns: DecodeColumns) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Slots and positions, int64 `[num_rows]`; the former not to be changed."""
        if columns.slots is not self._columns.slots:
            self._columns = columns
            self._slots = np.array(columns.slots, dtype=np.int64)
            self._bases = np.array(columns.bases, dtype=np.int64)
        return self._slots, self._bases + columns.shift


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


def decodes_of(plan: StepPlan, steady: SteadyRows) -> Decodes | None:
    """None where a row is anything but a decode."""
    others = plan.scheduled
    if not all(len(row.token_ids) == 1 and row.samples and row.scored is None for row in others):
        return None
    slots, positions = steady.arrays(plan.decodes)
    token_ids = np.full(plan.num_rows, PENDING, dtype=np.int64)
    if others:
        token_ids[len(slots) :] = [row.token_ids[0] for row in others]
        slots = np.append(slots, [row.slot for row in others])
        positions = np.append(positions, [row.start for row in others])
    return Decodes(slots, positions, token_ids)
