"""Which blocks hold each slot's tokens, on the host and on the device.

A slot has a table for each group of layers. A table only grows at its end while its slot is taken. The
device's copy is told what was appended, never sent the whole; on a CPU both are the same memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class BlockTables:
    """In each group of layers, one row of physical block ids for each slot.

    Attributes:
        block_size: tokens in a block.
        on_device: int32 `[num_groups, num_slots, max_blocks]`, always at the same address.
    """

    def __init__(
        self, num_slots: int, max_blocks: int, block_size: int, device: torch.device, num_groups: int = 1
    ) -> None:
        """`max_blocks` is the most that one sequence can have in a group."""
        self.block_size = block_size
        self._host = np.zeros((num_groups, num_slots, max_blocks), dtype=np.int32)
        self._lengths = np.zeros((num_groups, num_slots), dtype=np.int64)
        self._on_host = device.type == "cpu"
        if self._on_host:
            self.on_device = torch.from_numpy(self._host)
        else:
            self.on_device = torch.zeros(self._host.shape, dtype=torch.int32, device=device)
        self._changed: list[int] = []
        """Places in `_host`, flat."""

    def clear(self, slot: int) -> None:
        """Start the slot's tables anew."""
        self._lengths[:, slot] = 0

    def append(self, slot: int, blocks: Sequence[Sequence[int]]) -> None:
        """Add blocks at the end of the slot's tables, those of each group."""
        _, num_slots, width = self._host.shape
        for group, added in enumerate(blocks):
            start = int(self._lengths[group, slot])
            end = self._lengths[group, slot] = start + len(added)
            self._host[group, slot, start:end] = added
            if not self._on_host:
                row = (group * num_slots + slot) * width
                self._changed.extend(range(row + start, row + end))

    def append_each(self, slots: Sequence[int], blocks: Sequence[Sequence[int]]) -> None:
        """Add a block at the end of each of these slots' tables; `blocks` has them for each group."""
        if not slots:
            return
        index = np.array(slots, dtype=np.int64)
        _, num_slots, width = self._host.shape
        for group, added in enumerate(blocks):
            ends = self._lengths[group, index]
            self._host[group, index, ends] = added
            self._lengths[group, index] += 1
            if not self._on_host:
                self._changed += ((group * num_slots + index) * width + ends).tolist()

    def cache_slots(self, slots: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each token's key and value go, int64 `[num_groups, num_tokens]`: block * block_size + offset.

        Args:
            slots: the slot of each token.
            positions: its place in the sequence.
        """
        blocks = self._host[:, slots, positions // self.block_size].astype(np.int64, order="C")
        return blocks * self.block_size + positions % self.block_size

    def take_changes(self) -> dict[str, NDArray[Any]]:
        """What was appended since the last call, to be sent to the device and given to `update`."""
        if not self._changed:
            return {}
        changed = np.array(self._changed, dtype=np.int64)
        self._changed.clear()
        return {"changed_entries": changed, "changed_blocks": self._host.reshape(-1)[changed]}

    def update(self, sent: dict[str, Tensor]) -> None:
        """Bring the device's copy up to date."""
        if "changed_entries" in sent:
            self.on_device.view(-1).index_copy_(0, sent["changed_entries"], sent["changed_blocks"])

    def rows(self, slots: Tensor, num_tokens: int, out: Tensor | None = None) -> Tensor:
        """The entries of these slots' tables that hold their first `num_tokens` tokens: int32
        `[num_groups, slots, num_blocks]`; the beginning of `out`, where it is given."""
        num_blocks = -(-num_tokens // self.block_size)
        if out is not None:
            out = out[:, : len(slots), :num_blocks]
        return torch.index_select(self.on_device[:, :, :num_blocks], 1, slots, out=out)
