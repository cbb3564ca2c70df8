"""How likely tokens are, without sorting or normalizing the vocabulary: log-softmax where it is asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwire_kernels.reference.precision import compute_dtype

_INF = float("inf")


def score_tokens(logits: Tensor, rows: Tensor | None, tokens: Tensor, num_top: int) -> tuple[Tensor, Tensor]:
    """log softmax of some rows at a token of each, and at each row's most likely tokens.

    NaN counts as minus infinity, and several plus infinities share the row, as where tokens are sampled.

    Args:
        logits: [num_rows, vocab_size], any float dtype.
        rows: int64 [num_scored], which of the rows; None: all, in order.
        tokens: int64 [num_scored].
        num_top: how many of the most likely tokens, at most vocab_size. In which order equal ones come, and
            which of them is left out, is the implementation's choice.

    Returns:
        Two tensors [num_scored, 1 + num_top]. float32 (float64 of float64 logits): the token's
        log-probability, then the most likely tokens', the largest first. int64: the token's rank (1 and the
        number of tokens with a larger logit), then the most likely tokens.
    """
    chosen = logits if rows is None else logits.index_select(0, rows)
    wide = chosen.to(compute_dtype(logits.dtype))
    limits = torch.finfo(wide.dtype)
    wide = wide.nan_to_num(nan=-_INF, posinf=limits.max, neginf=-_INF)
    of_token = wide.gather(1, tokens[:, None])
    ranks = (wide > of_token).sum(dim=1, keepdim=True) + 1
    top = wide.topk(num_top, dim=1)
    # The largest logit is taken off first, so that the logarithm of the sum keeps its digits. The sum is at
    # least 1 then, unless there is nothing in the row.
    largest = wide.amax(dim=1, keepdim=True).clamp_(min=limits.min)
    normalizer = wide.sub_(largest).exp_().sum(dim=1, keepdim=True).clamp_(min=1.0).log_()
    logprobs = torch.cat([of_token, top.values], dim=1).sub_(largest).sub_(normalizer)
    return logprobs, torch.cat([ranks, top.indices], dim=1)
