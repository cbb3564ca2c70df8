"""A plan of decodes as columns: what a step of them is told in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenwire_engine.scheduler.plan import PENDING, StepPlan


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


def decodes_of(plan: StepPlan) -> Decodes | None:
    """None where a row is anything but a decode."""
    steady, others = plan.decodes, plan.scheduled
    if not all(len(row.token_ids) == 1 and row.samples and row.scored is None for row in others):
        return None
    return Decodes(
        np.array([*steady.slots, *(row.slot for row in others)], dtype=np.int64),
        np.array([*steady.starts, *(row.start for row in others)], dtype=np.int64),
        np.array([PENDING] * len(steady.slots) + [row.token_ids[0] for row in others], dtype=np.int64),
    )
