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
    """Logprobs as they leave the device."""

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


def score(logits: Tensor, tokens: Tensor, num_top: int) -> Scores:
    """log softmax of each row at its token and at its `num_top` most likely tokens.

    Args:
        logits: float32 `[num_tokens, vocab_size]`.
        tokens: int64 `[num_tokens]`.
    """
    of_token = logits.gather(1, tokens[:, None])
    ranks = (logits > of_token).sum(dim=1, keepdim=True) + 1
    top = logits.topk(num_top, dim=1)
    # The largest logit is taken off first, so that the logarithm of the sum keeps its digits.
    largest = logits.amax(dim=1, keepdim=True)
    normalizer = (logits - largest).exp_().sum(dim=1, keepdim=True).log_()
    logprobs = torch.cat([of_token, top.values], dim=1).sub_(largest).sub_(normalizer)
    return Scores(logprobs, torch.cat([ranks, top.indices], dim=1))


def joined(parts: list[Scores]) -> Scores:
    """Scores of several runs of tokens, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Scores(torch.cat([part.logprobs for part in parts]), torch.cat([part.ids for part in parts]))
