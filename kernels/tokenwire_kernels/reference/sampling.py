"""From logits to tokens: greedy, or one draw from the filtered distribution.

Every filter is a threshold: top-k, top-p and min-p each keep the tokens whose logit is at or above some
value, typical-p those within some distance of the expected logit, so tokens of equal logit are kept or
dropped together and no order among them matters. The draw is a race (the Gumbel-max trick, in other words):
each token has a random number of its own, so that a rounding error in the logits, such as another batch size
makes, changes the token only where two all but tie. Inverting the cumulative distribution at a single number
would add up the errors of all tokens before. NaN counts as minus infinity; several plus infinities share the
row; a row with nothing to choose from gives token 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwire_kernels.batch import SamplingBatch
from tokenwire_kernels.reference.random import exponentials, row_keys

_INF = float("inf")
_HEAD = 256
"""Filters usually keep fewer tokens than this, and finding the largest few is far cheaper than sorting."""


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
    """One token per row: temperature, then top-k, top-p (of what top-k kept), min-p and typical-p (of what
    the others kept), then the draw.

    Args:
        logits: float32 [num_rows, vocab_size].
        batch: how each row is sampled; rows of temperature 0 are greedy.

    Returns:
        int64 [num_rows].
    """
    if batch.all_greedy:
        return greedy(logits)
    limits = torch.finfo(logits.dtype)
    scaled = logits.nan_to_num(nan=-_INF, posinf=limits.max, neginf=-_INF)
    largest, most_likely = scaled.max(dim=-1, keepdim=True)
    is_greedy = batch.temperatures == 0
    # With the largest logit at 0 no temperature is too small to divide by.
    scaled.sub_(largest.clamp_(min=limits.min)).div_(batch.temperatures.masked_fill(is_greedy, 1.0)[:, None])
    weights = scaled.exp()
    if not batch.all_unfiltered:
        weights.masked_fill_(scaled < _threshold(scaled, weights, batch), 0.0)
    if batch.typical_p is not None:
        (rows,) = torch.where(batch.typical_p < 1.0)
        typical_p = batch.typical_p[rows].to(scaled.dtype)[:, None]
        weights[rows] = _typical_weights(scaled[rows], weights[rows], typical_p)
    drawn = _race(weights, row_keys(batch.seeds, batch.sample_indices, batch.positions))
    return torch.where(is_greedy, most_likely[:, 0], drawn)


def _threshold(scaled: Tensor, weights: Tensor, batch: SamplingBatch) -> Tensor:
    """The least scaled logit [num_rows, 1] that each row's filters keep; weights are exp(scaled)."""
    top_k, top_p = batch.top_k.long()[:, None], batch.top_p.to(scaled.dtype)[:, None]
    threshold = batch.min_p.to(scaled.dtype).log()[:, None]
    if bool(((top_k == 0) & (top_p >= 1.0)).all()):
        return threshold
    vocab_size = scaled.shape[1]
    for count in (min(_HEAD, vocab_size), vocab_size):
        head = scaled.topk(count, dim=-1).values
        kth = head.gather(1, (top_k - 1).clamp(0, count - 1)).where(top_k > 0, -_INF)
        mass = weights.masked_fill(scaled < kth, 0.0).sum(dim=-1, keepdim=True).mul_(top_p)
        cumulative = head.exp().masked_fill_(head < kth, 0.0).cumsum(dim=-1)
        if bool(((top_k <= count) & ((top_p >= 1.0) | (cumulative[:, -1:] >= mass))).all()):
            break
    pth = head.gather(1, (cumulative < mass).sum(dim=-1, keepdim=True).clamp_(max=count - 1))
    return threshold.maximum(kth).maximum(pth.where(top_p < 1.0, -_INF))


def _typical_weights(scaled: Tensor, weights: Tensor, typical_p: Tensor) -> Tensor:
    """The weights [num_rows, vocab_size], 0 outside the smallest set of mass typical_p [num_rows, 1] whose
    information content is nearest to the distribution's entropy (locally typical sampling, Meister et al.,
    2023).

    -log p(token) - entropy is the expected scaled logit less the token's own: the normalization cancels.
    """
    total = weights.sum(dim=-1, keepdim=True)
    expected = (weights * scaled.where(weights > 0, 0.0)).sum(dim=-1, keepdim=True) / total
    distance = (scaled - expected).abs_().masked_fill_(weights == 0, _INF)
    vocab_size = scaled.shape[1]
    for count in (min(_HEAD, vocab_size), vocab_size):
        nearest, order = distance.topk(count, dim=-1, largest=False)
        cumulative = weights.gather(1, order).cumsum(dim=-1)
        if bool((cumulative[:, -1:] >= typical_p * total).all()):
            break
    last = (cumulative < typical_p * total).sum(dim=-1, keepdim=True).clamp_(max=count - 1)
    return weights.masked_fill(distance > nearest.gather(1, last), 0.0)


def _race(weights: Tensor, keys: Tensor) -> Tensor:
    """The token [num_rows] that comes first when each takes an exponential time at the rate of its weight:
    the lowest of those with the largest weight / exponential."""
    ratios = weights / exponentials(keys, weights.shape[1])
    return ratios.masked_fill_(weights == 0, -1.0).argmax(dim=-1)
