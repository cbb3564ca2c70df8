"""Log-probabilities on the device.

They travel as two tensors, whatever the number of alternatives; the host cuts each request's part out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenwire_engine.sampling.logprobs import Logprobs


@dataclass(slots=True)
class Scores:
    """Logprobs as they leave the device: what the operator `score_tokens` gives."""

    logprobs: Tensor
    """float32 `[num_tokens, 1 + num_top]`: of the token, then of the most likely ones."""
    ids: Tensor
    """int64 `[num_tokens, 1 + num_top]`: the token's rank, then the most likely tokens."""

    def columns(self, start: int, count: int, num_top: int) -> Logprobs:
        """Those of some of the tokens, with as many alternatives as were asked for. On the host only."""
        logprobs, ids = self.logprobs[start : start + count], self.ids[start : start + count]
        return Logprobs(
            num_top,
            logprobs[:, 0].tolist(),
            ids[:, 0].tolist(),
            ids[:, 1 : 1 + num_top].flatten().tolist(),
            logprobs[:, 1 : 1 + num_top].flatten().tolist(),
        )


def joined(parts: list[Scores]) -> Scores:
    """Scores of several runs of tokens, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Scores(torch.cat([part.logprobs for part in parts]), torch.cat([part.ids for part in parts]))
