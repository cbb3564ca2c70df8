"""What is added to the logits of some requests at every step: logit bias, and minus infinity for tokens that
may never come (all but the allowed ones; bad words of a single token).

Only slots whose request has any own a row, and only their logits are touched.
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


class Biases:
    """A row of float32 `[vocab_size]` for each slot with a bias."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._device = device
        self._table = torch.empty((0, vocab_size), dtype=torch.float32, device=device)
        self._rows = Rows()

    def admit(self, slot: int, params: SamplingParams) -> None:
        """Write a request's row, if it needs one. Whatever the slot held before is forgotten."""
        self.release(slot)
        bad_tokens = [word[0] for word in params.bad_words if len(word) == 1]
        if not (params.logit_bias or params.allowed_token_ids or bad_tokens):
            return
        values = np.zeros(self._table.shape[1], dtype=np.float32)
        if params.allowed_token_ids:
            values[:] = -np.inf
            values[list(params.allowed_token_ids)] = 0.0
        if params.logit_bias:
            values[list(params.logit_bias)] += np.array(list(params.logit_bias.values()), dtype=np.float32)
        values[bad_tokens] = -np.inf
        row = self._rows.take(slot)
        self._table = grown(self._table, self._rows.capacity)
        self._table[row].copy_(on_device(values, self._device))

    def release(self, slot: int) -> None:
        """Forget a slot."""
        self._rows.release(slot)

    def prepare(self, slots: Sequence[int]) -> dict[str, NDArray[Any]]:
        """What `apply` needs on the device for these slots; empty when none has a bias."""
        if not self._rows:
            return {}
        biased = [(index, self._rows[slot]) for index, slot in enumerate(slots) if slot in self._rows]
        if not biased:
            return {}
        pairs = np.array(biased, dtype=np.int64)
        return {"biased": pairs[:, 0].copy(), "bias_rows": pairs[:, 1].copy()}

    def apply(self, logits: Tensor, sent: dict[str, Tensor]) -> None:
        """Add to logits `[num_rows, vocab_size]` in place."""
        if "biased" in sent:
            logits.index_add_(0, sent["biased"], self._table.index_select(0, sent["bias_rows"]))
