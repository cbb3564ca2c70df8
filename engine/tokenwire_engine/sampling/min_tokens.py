"""Minimum lengths: what would end a request is withheld until its output is long enough.

How long an output is follows from the position of its next token, so nothing is counted: a step that was
computed twice, or a request that moved, withholds the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenwire_engine.sampling.params import SamplingParams


class MinTokens:
    """The slots whose request has a minimum length."""

    def __init__(self) -> None:
        self._from: dict[int, tuple[int, NDArray[np.int64]]] = {}
        """By slot: the first position at which it may end, and the tokens that end it."""

    def admit(self, slot: int, params: SamplingParams, num_prompt: int, num_output: int) -> None:
        """Note a request's minimum, if it has not reached it. Whatever the slot held before is forgotten."""
        self.release(slot)
        if num_output < params.min_tokens and params.ending_token_ids:
            ending = np.array(params.ending_token_ids, dtype=np.int64)
            self._from[slot] = num_prompt + params.min_tokens, ending

    def release(self, slot: int) -> None:
        """Forget a slot."""
        self._from.pop(slot, None)

    def prepare(self, slots: Sequence[int], positions: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """What `apply` needs on the device; empty when every one of these outputs is long enough."""
        if not self._from:
            return {}
        short = [
            (index, self._from[slot][1])
            for index, slot in enumerate(slots)
            if slot in self._from and positions[index] < self._from[slot][0]
        ]
        if not short:
            return {}
        indices = np.array([index for index, _ in short], dtype=np.int64)
        return {
            "short": np.repeat(indices, [len(ending) for _, ending in short]),
            "ending": np.concatenate([ending for _, ending in short]),
        }

    def apply(self, logits: Tensor, sent: dict[str, Tensor]) -> None:
        """Withhold tokens in logits `[num_rows, vocab_size]`, in place."""
        if "short" in sent:
            withheld = torch.full((), -torch.inf, dtype=logits.dtype, device=logits.device)
            logits.index_put_((sent["short"], sent["ending"]), withheld)
