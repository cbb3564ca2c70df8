"""Log-probabilities: of tokens that were sampled or given, and of the most likely ones at their places.

They are of the model's own distribution, before any sampling parameter. What is computed on the device
travels as two tensors, whatever the number of alternatives; the host cuts each request's part out of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

MAX_LOGPROBS = 20
"""Most alternatives a token, as in OpenAI's API."""


@dataclass(slots=True)
class Logprobs:
    """Log-probabilities of a run of tokens, as columns; `top_*` hold `num_top` values a token, token by
    token, most likely first."""

    num_top: int
    token_logprobs: list[float] = field(default_factory=list)
    """Natural logarithms."""
    token_ranks: list[int] = field(default_factory=list)
    """Among the vocabulary, 1 = most likely; tokens of equal probability share the better one."""
    top_token_ids: list[int] = field(default_factory=list)
    top_logprobs: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.token_logprobs)

    def extend(self, other: Logprobs) -> None:
        """Append those of the tokens that follow."""
        self.token_logprobs += other.token_logprobs
        self.token_ranks += other.token_ranks
        self.top_token_ids += other.top_token_ids
        self.top_logprobs += other.top_logprobs

    def take(self, count: int) -> Logprobs:
        """Remove the first `count` tokens, and return them."""
        top = count * self.num_top
        taken = Logprobs(
            self.num_top,
            self.token_logprobs[:count],
            self.token_ranks[:count],
            self.top_token_ids[:top],
            self.top_logprobs[:top],
        )
        del self.token_logprobs[:count], self.token_ranks[:count]
        del self.top_token_ids[:top], self.top_logprobs[:top]
        return taken


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
