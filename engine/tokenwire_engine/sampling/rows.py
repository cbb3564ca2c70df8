"""Which row of a table on the device each slot owns, for what only some requests need.

A table starts empty and doubles when it is full, so that an engine whose requests never ask for the feature
spends no memory on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEAST_ROWS = 4


class Rows:
    """Slots and their rows; the tables themselves belong to the feature."""

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}
        self._free: list[int] = []
        self.capacity = 0
        """Rows that the feature's tables must have."""

    def __contains__(self, slot: int) -> bool:
        return slot in self._rows

    def __getitem__(self, slot: int) -> int:
        return self._rows[slot]

    def __bool__(self) -> bool:
        return bool(self._rows)

    def take(self, slot: int) -> int:
        """A row for a slot that has none. Look at `capacity` before using it."""
        if not self._free:
            added = max(LEAST_ROWS, self.capacity)
            self._free.extend(range(self.capacity, self.capacity + added))
            self.capacity += added
        row = self._rows[slot] = self._free.pop()
        return row

    def release(self, slot: int) -> None:
        """Give a slot's row back, if it has one."""
        row = self._rows.pop(slot, None)
        if row is not None:
            self._free.append(row)


def grown(table: Tensor, capacity: int) -> Tensor:
    """The table with rows of zeros added until it has `capacity`."""
    missing = capacity - len(table)
    return table if missing == 0 else torch.cat([table, table.new_zeros((missing, *table.shape[1:]))])


def on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """A copy on the device, without waiting for the device."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
