"""From logits to each slot's next token.

A slot's parameters are written once, when its request is admitted; a step picks the rows it needs. A step
in which every request is greedy and none is penalized is one argmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.sampling.penalties import Penalties
from tokenwire_kernels import Kernels, SamplingBatch

COLUMNS: dict[str, type[np.generic]] = {
    "temperatures": np.float32,
    "top_k": np.int32,
    "top_p": np.float32,
    "min_p": np.float32,
    "seeds": np.int64,
    "sample_indices": np.int32,
}
"""A `SamplingBatch`'s tensors that do not change while a request runs."""


class Sampler:
    """Chooses the next tokens of the slots' requests."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device, kernels: Kernels) -> None:
        self._vocab_size = vocab_size
        self._kernels = kernels
        self._params: dict[str, NDArray[Any]] = {
            name: np.zeros(num_slots, dtype) for name, dtype in COLUMNS.items()
        }
        self._filtered = np.zeros(num_slots, dtype=bool)
        self._penalties = Penalties(vocab_size, device)

    def admit(self, slot: int, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]) -> None:
        """A request takes a slot, with the tokens it has so far."""
        columns = self._params
        columns["temperatures"][slot] = params.temperature
        columns["top_k"][slot] = min(params.top_k, self._vocab_size)
        columns["top_p"][slot] = params.top_p
        columns["min_p"][slot] = params.min_p
        columns["seeds"][slot] = (params.seed + 2**63) % 2**64 - 2**63  # as a signed number of the same bits
        columns["sample_indices"][slot] = params.sample_index
        self._filtered[slot] = params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0
        self._penalties.admit(slot, params, prompt, output)

    def release(self, slot: int) -> None:
        """The slot's request is gone."""
        self._penalties.release(slot)

    def prepare(self, slots: Sequence[int], positions: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """What `sample` needs on the device.

        Args:
            slots: of each row of logits, in order.
            positions: the place in its sequence of each token to be sampled.
        """
        arrays = self._penalties.prepare(slots)
        index = np.array(slots, dtype=np.int64)
        if self._params["temperatures"][index].any():
            arrays |= {name: column[index] for name, column in self._params.items()}
            arrays["sampled_positions"] = positions
        return arrays

    def sample(self, logits: Tensor, slots: Sequence[int], sent: dict[str, Tensor]) -> Tensor:
        """The next token of each row: int64 `[num_rows]`, on the device.

        Args:
            logits: float32 `[num_rows, vocab_size]`; changed where penalties apply.
            slots: as given to `prepare`.
            sent: what `prepare` returned, on the device.
        """
        self._penalties.apply(logits, sent)
        if "temperatures" in sent:
            batch = SamplingBatch(
                temperatures=sent["temperatures"],
                top_k=sent["top_k"],
                top_p=sent["top_p"],
                min_p=sent["min_p"],
                seeds=sent["seeds"],
                sample_indices=sent["sample_indices"],
                positions=sent["sampled_positions"],
                all_unfiltered=not self._filtered[list(slots)].any(),
            )
            tokens = self._kernels.sample(logits, batch)
        else:
            tokens = self._kernels.greedy(logits)
        self._penalties.count(tokens, sent)
        return tokens
