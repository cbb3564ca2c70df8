"""Repetition, presence and frequency penalties, on the device.

Only slots whose request has one own a row of counts, and only their logits are touched: a request without
penalties costs and pays nothing. A row's counts follow the tokens that its slot sampled, without leaving
the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.sampling.rows import Rows, grown, on_device
from tokenwire_kernels import Kernels, PenaltyBatch


class Penalties:
    """Token counts of the slots that are penalized."""

    def __init__(self, vocab_size: int, device: torch.device, kernels: Kernels) -> None:
        self._kernels = kernels
        self._device = device
        self._in_prompt = torch.empty((0, vocab_size), dtype=torch.bool, device=device)
        self._in_output = torch.empty((0, vocab_size), dtype=torch.int32, device=device)
        self._rows = Rows()
        self._params: dict[int, SamplingParams] = {}

    def admit(self, slot: int, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]) -> None:
        """Count a request's tokens, if it has penalties. Whatever the slot held before is forgotten."""
        self.release(slot)
        if not params.has_penalties:
            return
        row = self._rows.take(slot)
        self._in_prompt = grown(self._in_prompt, self._rows.capacity)
        self._in_output = grown(self._in_output, self._rows.capacity)
        self._params[slot] = params
        vocab_size = self._in_output.shape[1]
        in_prompt = np.zeros(vocab_size, dtype=bool)
        in_prompt[np.array(prompt, dtype=np.int64)] = True
        counts = np.bincount(np.array(output, dtype=np.int64), minlength=vocab_size).astype(np.int32)
        self._in_prompt[row].copy_(on_device(in_prompt, self._device))
        self._in_output[row].copy_(on_device(counts, self._device))

    def release(self, slot: int) -> None:
        """Forget a slot."""
        self._rows.release(slot)
        self._params.pop(slot, None)

    def prepare(self, slots: Sequence[int]) -> dict[str, NDArray[Any]]:
        """What `apply` and `count` need on the device for these slots; empty when none is penalized."""
        if not self._rows:
            return {}
        penalized = [(index, slot) for index, slot in enumerate(slots) if slot in self._rows]
        if not penalized:
            return {}
        params = [self._params[slot] for _, slot in penalized]
        return {
            "penalized": np.array([index for index, _ in penalized], dtype=np.int64),
            "penalty_rows": np.array([self._rows[slot] for _, slot in penalized], dtype=np.int64),
            "repetition": np.array([p.repetition_penalty for p in params], dtype=np.float32),
            "presence": np.array([p.presence_penalty for p in params], dtype=np.float32),
            "frequency": np.array([p.frequency_penalty for p in params], dtype=np.float32),
        }

    def apply(self, logits: Tensor, sent: dict[str, Tensor]) -> None:
        """Penalize logits `[num_rows, vocab_size]` in place."""
        if "penalized" not in sent:
            return
        batch = PenaltyBatch(
            rows=sent["penalized"],
            counted=sent["penalty_rows"],
            repetition=sent["repetition"],
            presence=sent["presence"],
            frequency=sent["frequency"],
        )
        self._kernels.apply_penalties(logits, self._in_prompt, self._in_output, batch)

    def count(self, tokens: Tensor, sent: dict[str, Tensor]) -> None:
        """Count the tokens `[num_rows]` that were just sampled."""
        if "penalized" in sent:
            sampled = tokens.index_select(0, sent["penalized"])
            places = (sent["penalty_rows"], sampled)  # no row twice: nothing is counted at the same place
            self._in_output[places] = self._in_output[places] + 1
