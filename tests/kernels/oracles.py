"""Operators written a second time, as naively as they are defined, to verify the reference itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def attend_one(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    position: int,
    scale: float,
    window: int,
    soft_cap: float,
    sinks: Tensor | None = None,
) -> Tensor:
    """One token's q [num_heads, head_dim] over keys and values [context, kv_heads, head_dim]."""
    first = max(0, position - window + 1) if window else 0
    group = q.shape[0] // keys.shape[1]
    rows = []
    for head in range(q.shape[0]):
        scores = keys[first : position + 1, head // group] @ q[head] * scale
        if soft_cap:
            scores = soft_cap * torch.tanh(scores / soft_cap)
        weights = scores.exp() / (scores.exp().sum() + (0.0 if sinks is None else sinks[head].exp()))
        rows.append(weights @ values[first : position + 1, head // group])
    return torch.stack(rows)


def kept_tokens(logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float) -> set[int]:
    """What the filters leave of a row, by sorting it."""
    largest = max(logits)
    weights = [math.exp((logit - largest) / temperature) for logit in logits]
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    kept = [
        token for token in order if not top_k or logits[token] >= logits[order[min(top_k, len(order)) - 1]]
    ]
    if top_p < 1.0:
        mass, total = 0.0, sum(weights[token] for token in kept)
        nucleus: list[int] = []
        for token in kept:
            if mass >= top_p * total and logits[token] < logits[nucleus[-1]]:
                break
            nucleus.append(token)
            mass += weights[token]
        kept = nucleus
    return {token for token in kept if weights[token] >= min_p}


def typical_tokens(logits: list[float], temperature: float, kept: set[int], typical_p: float) -> set[int]:
    """What locally typical sampling leaves of the kept tokens: one after the other, the nearest first."""
    if typical_p >= 1.0:
        return kept
    weights = weights_of(logits, temperature, kept)
    probabilities = {token: weights[token] / sum(weights) for token in kept if weights[token] > 0}
    entropy = -sum(p * math.log(p) for p in probabilities.values())
    distance = {token: abs(-math.log(p) - entropy) for token, p in probabilities.items()}
    typical: set[int] = set()
    mass, farthest = 0.0, 0.0
    for token in sorted(distance, key=lambda token: distance[token]):
        if mass >= typical_p and distance[token] > farthest + 1e-6:
            break
        typical.add(token)
        mass, farthest = mass + probabilities[token], distance[token]
    return typical


def weights_of(logits: list[float], temperature: float, kept: set[int]) -> list[float]:
    """Unnormalized probabilities of a row, 0 for what was filtered."""
    largest = max(logits)
    return [
        math.exp((logit - largest) / temperature) if token in kept else 0.0
        for token, logit in enumerate(logits)
    ]
