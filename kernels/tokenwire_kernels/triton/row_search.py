"""Thresholds of one row by one program, without a sort: searched for digit by digit.

A row's logits, scaled so that the largest is 0, order like the integers of their bits, their ranks. A
threshold is found in that order, four bits in a pass over the row: the largest rank that still has k tokens,
or the wanted mass, at or above it. Distances from the expected logit are searched alike.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def clean(logits):
    """NaN is minus infinity; plus infinity is the largest number."""
    logits = tl.where(logits == logits, logits, float("-inf"))
    return tl.minimum(logits, 3.4028234663852886e38)


@triton.jit
def load_scaled(row_ptr, token, vocab_size, largest, temperature):
    """Scaled logits; minus infinity past the vocabulary."""
    logits = tl.load(row_ptr + token, mask=token < vocab_size, other=float("-inf"))
    return scaled_of(logits.to(tl.float32), largest, temperature)


@triton.jit
def scaled_of(logits, largest, temperature):
    """Logits as (logit - largest) / temperature: at most 0."""
    return (clean(logits) - largest) / temperature


@triton.jit
def racing(logits, largest, temperature, threshold):
    """Logits, minus infinity where scaled they are below the threshold."""
    return tl.where(scaled_of(logits, largest, temperature) >= threshold, logits, float("-inf"))


@triton.jit
def rank_of(scaled):
    """Non-negative integers in the order of scaled logits, none of which is above 0."""
    magnitude = scaled.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return (0x7F800000 - magnitude).to(tl.uint32)


@triton.jit
def scaled_of_rank(rank):
    """The scaled logit of a rank."""
    magnitude = 0x7F800000 - tl.minimum(rank, 0x7F800000).to(tl.int32)
    return -magnitude.to(tl.float32, bitcast=True)


@triton.jit
def find_rank(
    row_ptr, vocab_size, largest, temperature, least_rank, least_scaled, expected, wanted,
    BY_MASS: tl.constexpr, TYPICAL: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The largest rank at or above which lie `wanted` tokens, or that much mass of those kept so far.

    TYPICAL: the rank of the distance from `expected`, the nearest highest.
    """
    digit = tl.arange(0, 16).to(tl.uint32)
    found = tl.full([], 0, tl.uint32)
    for step in range(8):
        pivot = found + (digit << (28 - 4 * step))
        above = tl.zeros([16, COLUMNS], tl.float32)
        for start in range(0, vocab_size, COLUMNS):
            scaled = load_scaled(row_ptr, start + tl.arange(0, COLUMNS), vocab_size, largest, temperature)
            rank = rank_of(scaled)
            if BY_MASS:
                kept = (rank >= least_rank) & (scaled >= least_scaled)
                measure = tl.where(kept, tl.exp(scaled), 0.0)
            else:
                measure = tl.where(start + tl.arange(0, COLUMNS) < vocab_size, 1.0, 0.0)
            if TYPICAL:
                rank = rank_of(-tl.abs(scaled - expected))
            above += tl.where(rank[None, :] >= pivot[:, None], measure[None, :], 0.0)
        enough = tl.sum(above, axis=1) >= wanted
        found += tl.max(tl.where(enough, digit, 0).to(tl.int32), axis=0).to(tl.uint32) << (28 - 4 * step)
    return found


@triton.jit
def kept_weights(
    row_ptr, token, vocab_size, largest, temperature, least_rank, least_scaled, expected, least_typical,
    TYPICAL: tl.constexpr,
):  # fmt: skip
    scaled = load_scaled(row_ptr, token, vocab_size, largest, temperature)
    kept = (rank_of(scaled) >= least_rank) & (scaled >= least_scaled)
    if TYPICAL:
        kept = kept & (rank_of(-tl.abs(scaled - expected)) >= least_typical)
    return tl.where(kept, tl.exp(scaled), 0.0)


@triton.jit
def filter_rank(row_ptr, vocab_size, largest, temperature, top_k, top_p, COLUMNS: tl.constexpr):
    """The least rank that top-k, and top-p of what top-k kept, keep."""
    column = tl.arange(0, COLUMNS)
    least_rank = tl.full([], 0, tl.uint32)
    least_scaled = tl.full([], float("-inf"), tl.float32)
    expected = tl.full([], 0.0, tl.float32)
    least_typical = tl.full([], 0, tl.uint32)
    if (top_k > 0) & (top_k < vocab_size):
        least_rank = find_rank(
            row_ptr, vocab_size, largest, temperature, least_rank, least_scaled, expected,
            top_k.to(tl.float32), False, False, COLUMNS,
        )  # fmt: skip
    if top_p < 1.0:
        mass = tl.zeros([COLUMNS], tl.float32)
        for start in range(0, vocab_size, COLUMNS):
            mass += kept_weights(
                row_ptr, start + column, vocab_size, largest, temperature, least_rank, least_scaled,
                expected, least_typical, False,
            )  # fmt: skip
        by_mass = find_rank(
            row_ptr, vocab_size, largest, temperature, least_rank, least_scaled, expected,
            tl.sum(mass, axis=0) * top_p, True, False, COLUMNS,
        )  # fmt: skip
        least_rank = tl.maximum(least_rank, by_mass)
    return least_rank


@triton.jit
def least_scaled_of(min_p):
    """The least scaled logit that min-p keeps."""
    return tl.where(min_p > 0.0, tl.log(tl.maximum(min_p, 1e-38)), float("-inf"))
