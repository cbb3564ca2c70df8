"""From logits to tokens: greedy, or one draw from the filtered distribution.

Every filter is a threshold on the logits: top-k, top-p and min-p each keep the tokens at or above some
value, so tokens of equal logit are kept or dropped together and no order among them matters. The draw
inverts the cumulative distribution, in token id order, at one random number per row. NaN counts as
minus infinity; several plus infinities share the row; a row with nothing to choose from gives token 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwire_kernels.batch import SamplingBatch
from tokenwire_kernels.reference.random import uniform

_INF = float("inf")


def greedy(logits: Tensor) -> Tensor:
    """The most likely token of each row, the lowest id among equals.

    Args:
        logits: [num_rows, vocab_size], any float dtype.

    Returns:
        int64 [num_rows].
    """
    tokens = logits.argmax(dim=-1)
    if bool(logits.gather(1, tokens[:, None]).isnan().any()):  # argmax takes NaN for the largest number
        tokens = logits.nan_to_num(nan=-_INF, posinf=_INF, neginf=-_INF).argmax(dim=-1)
    return tokens


def sample(logits: Tensor, batch: SamplingBatch) -> Tensor:
    """One token per row: temperature, then top-k, top-p (of what top-k kept) and min-p, then the draw.

    Args:
        logits: float32 [num_rows, vocab_size].
        batch: how each row is sampled; rows of temperature 0 are greedy.

    Returns:
        int64 [num_rows].
    """
    if batch.all_greedy:
        return greedy(logits)
    finite = logits.nan_to_num(nan=-_INF, posinf=torch.finfo(logits.dtype).max, neginf=-_INF)
    best, tokens = finite.max(dim=-1)
    is_greedy = batch.temperatures == 0
    temperatures = batch.temperatures.masked_fill(is_greedy, 1.0).to(logits.dtype)
    # Zero is now the largest, so that any temperature is safe to divide by.
    scaled = (finite - best.clamp(min=torch.finfo(logits.dtype).min)[:, None]).div_(temperatures[:, None])
    weights = scaled.exp()
    if not batch.all_unfiltered:
        weights.masked_fill_(scaled < _threshold(scaled, weights, batch)[:, None], 0.0)
    drawn = _invert(weights, uniform(batch.seeds, batch.sample_indices, batch.positions))
    return torch.where(is_greedy, tokens, drawn)


def _threshold(scaled: Tensor, weights: Tensor, batch: SamplingBatch) -> Tensor:
    """The least scaled logit [num_rows] that each row's filters keep."""
    vocab_size = scaled.shape[1]
    sorted_scaled, order = scaled.sort(dim=-1, descending=True)
    sorted_weights = weights.gather(1, order)

    top_k = torch.where(batch.top_k > 0, batch.top_k, vocab_size).clamp(max=vocab_size).long()
    kth = sorted_scaled.gather(1, top_k[:, None] - 1)
    sorted_weights = sorted_weights.masked_fill(sorted_scaled < kth, 0.0)

    before = sorted_weights.cumsum(dim=-1) - sorted_weights
    mass = sorted_weights.sum(dim=-1, keepdim=True) * batch.top_p[:, None]
    kept = (before < mass).sum(dim=-1, keepdim=True).clamp(min=1)
    pth = sorted_scaled.gather(1, kept - 1)
    pth = torch.where(batch.top_p[:, None] < 1.0, pth, -_INF)

    return torch.maximum(torch.maximum(kth, pth)[:, 0], batch.min_p.to(scaled.dtype).log())


def _invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The first token [num_rows] whose cumulative weight exceeds uniform * total."""
    cumulative = weights.cumsum(dim=-1)
    target = uniforms.to(weights.dtype)[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, target, right=True)[:, 0]
    # Rounding can lift the target to the total itself: then it is the last token that has any weight.
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())[:, 0]
    return torch.minimum(token, last)
