"""Keeps the sampler to the tokens that its requests' grammars allow.

Called once the device has been given the step's forward pass: the host works out the masks while the device
computes the logits that they will be applied to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tokenwire_engine.sampling.rows import on_device
from tokenwire_engine.scheduler.grammar import Grammar
from tokenwire_kernels import Kernels


class TokenMasks:
    """The grammars of the slots whose output is constrained."""

    def __init__(self, device: torch.device, kernels: Kernels) -> None:
        self._device = device
        self._kernels = kernels
        self._grammars: dict[int, Grammar] = {}

    def admit(self, slot: int, grammar: Grammar | None) -> None:
        """A request takes a slot. Whatever the slot held before is forgotten."""
        self.release(slot)
        if grammar is not None:
            self._grammars[slot] = grammar

    def release(self, slot: int) -> None:
        """Forget a slot."""
        self._grammars.pop(slot, None)

    def apply(self, logits: Tensor, slots: Sequence[int]) -> None:
        """Withhold what no output goes on with.

        Args:
            logits: float32 `[num_rows, vocab_size]`; the constrained rows are changed.
            slots: of each row.
        """
        if not self._grammars:
            return
        constrained = [
            (row, self._grammars[slot]) for row, slot in enumerate(slots) if slot in self._grammars
        ]
        if not constrained:
            return
        words = np.frombuffer(bytearray().join(grammar.mask() for _, grammar in constrained), dtype="<i4")
        rows = np.array([row for row, _ in constrained], dtype=np.int64)
        self._kernels.apply_token_bitmask(
            logits,
            on_device(words.reshape(len(rows), -1), self._device),
            on_device(rows, self._device),
        )
