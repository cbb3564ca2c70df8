"""Sampling without a sort: thresholds are searched for digit by digit, then the kept tokens race.

A row's logits, scaled so that the largest is 0, order like the integers of their bits. The filters'
thresholds are found in that order, four bits per pass over the row: the largest value that still has k
tokens, or the wanted mass, at or above it. Distances from the expected logit are searched alike. One program
owns a row, so its result depends on nothing around it.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwire_kernels.batch import SamplingBatch
from tokenwire_kernels.triton.random import exponential, row_keys

_GREEDY_COLUMNS = 4096
SAMPLE_COLUMNS = 1024


def greedy(logits: Tensor) -> Tensor:
    """See `reference.sampling.greedy`. Parts of a row are searched in parallel, then compared."""
    num_rows, vocab_size = logits.shape
    parts = triton.cdiv(vocab_size, _GREEDY_COLUMNS)
    best = torch.empty((num_rows, parts), dtype=torch.float32, device=logits.device)
    best_at = torch.empty((num_rows, parts), dtype=torch.int64, device=logits.device)
    tokens = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    _best_of_part_kernel[(num_rows, parts)](
        logits, best, best_at, vocab_size, logits.stride(0), COLUMNS=_GREEDY_COLUMNS, num_warps=8
    )
    _best_of_parts_kernel[(num_rows,)](
        best, best_at, tokens, parts, PARTS=triton.next_power_of_2(parts), num_warps=1
    )
    return tokens


def sample(logits: Tensor, batch: SamplingBatch) -> Tensor:
    """See `reference.sampling.sample`."""
    if batch.all_greedy:
        return greedy(logits)
    num_rows, vocab_size = logits.shape
    tokens = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    _sample_kernel[(num_rows,)](
        logits, tokens, batch.temperatures, batch.top_k, batch.top_p, batch.min_p, batch.typical_p,
        batch.seeds, batch.sample_indices, batch.positions, vocab_size, logits.stride(0),
        FILTERED=not batch.all_unfiltered, TYPICAL=batch.typical_p is not None,
        COLUMNS=SAMPLE_COLUMNS, num_warps=16,
    )  # fmt: skip
    return tokens


@triton.jit
def _clean(logits):
    """NaN is minus infinity; plus infinity is the largest number."""
    logits = tl.where(logits == logits, logits, float("-inf"))
    return tl.minimum(logits, 3.4028234663852886e38)


@triton.jit
def _best_of_part_kernel(logits_ptr, best_ptr, best_at_ptr, vocab_size, row_stride, COLUMNS: tl.constexpr):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token = part * COLUMNS + tl.arange(0, COLUMNS)
    logits = tl.load(logits_ptr + row * row_stride + token, mask=token < vocab_size, other=float("-inf"))
    best, best_at = tl.max(
        _clean(logits.to(tl.float32)), axis=0, return_indices=True, return_indices_tie_break_left=True
    )
    tl.store(best_ptr + row * tl.num_programs(1) + part, best)
    tl.store(best_at_ptr + row * tl.num_programs(1) + part, (part * COLUMNS + best_at).to(tl.int64))


@triton.jit
def _best_of_parts_kernel(best_ptr, best_at_ptr, tokens_ptr, num_parts, PARTS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, PARTS)
    best = tl.load(best_ptr + row * num_parts + part, mask=part < num_parts, other=float("-inf"))
    _, winner = tl.max(best, axis=0, return_indices=True, return_indices_tie_break_left=True)
    tl.store(tokens_ptr + row, tl.load(best_at_ptr + row * num_parts + winner))


@triton.jit
def _load_scaled(row_ptr, token, vocab_size, largest, temperature):
    """Logits as (logit - largest) / temperature: at most 0; minus infinity past the vocabulary."""
    logits = _clean(tl.load(row_ptr + token, mask=token < vocab_size, other=float("-inf")).to(tl.float32))
    return (logits - largest) / temperature


@triton.jit
def _rank(scaled):
    """Non-negative integers in the order of scaled logits, none of which is above 0."""
    magnitude = scaled.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return (0x7F800000 - magnitude).to(tl.uint32)


@triton.jit
def _find_rank(
    row_ptr, vocab_size, largest, temperature, least_rank, least_scaled, expected, wanted,
    BY_MASS: tl.constexpr, TYPICAL: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The largest rank at or above which lie `wanted` tokens, or that much mass of those kept so far.

    TYPICAL: the rank of the distance from `expected`, the nearest highest.
    """
    digit = tl.arange(0, 16).to(tl.uint32)
    found = tl.full([], 0, tl.uint32)
    for step in tl.static_range(8):
        pivot = found + (digit << (28 - 4 * step))
        above = tl.zeros([16, COLUMNS], tl.float32)
        for start in range(0, vocab_size, COLUMNS):
            scaled = _load_scaled(row_ptr, start + tl.arange(0, COLUMNS), vocab_size, largest, temperature)
            rank = _rank(scaled)
            if BY_MASS:
                kept = (rank >= least_rank) & (scaled >= least_scaled)
                measure = tl.where(kept, tl.exp(scaled), 0.0)
            else:
                measure = tl.where(start + tl.arange(0, COLUMNS) < vocab_size, 1.0, 0.0)
            if TYPICAL:
                rank = _rank(-tl.abs(scaled - expected))
            above += tl.where(rank[None, :] >= pivot[:, None], measure[None, :], 0.0)
        enough = tl.sum(above, axis=1) >= wanted
        found += tl.max(tl.where(enough, digit, 0).to(tl.int32), axis=0).to(tl.uint32) << (28 - 4 * step)
    return found


@triton.jit
def _kept_weights(
    row_ptr, token, vocab_size, largest, temperature, least_rank, least_scaled, expected, least_typical,
    TYPICAL: tl.constexpr,
):  # fmt: skip
    scaled = _load_scaled(row_ptr, token, vocab_size, largest, temperature)
    kept = (_rank(scaled) >= least_rank) & (scaled >= least_scaled)
    if TYPICAL:
        kept = kept & (_rank(-tl.abs(scaled - expected)) >= least_typical)
    return tl.where(kept, tl.exp(scaled), 0.0)


@triton.jit
def _sample_kernel(
    logits_ptr, tokens_ptr, temperatures_ptr, top_k_ptr, top_p_ptr, min_p_ptr, typical_p_ptr,
    seeds_ptr, sample_indices_ptr, positions_ptr, vocab_size, row_stride,
    FILTERED: tl.constexpr, TYPICAL: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * row_stride
    column = tl.arange(0, COLUMNS)

    best = tl.full([COLUMNS], float("-inf"), tl.float32)
    best_at = column
    for start in range(0, vocab_size, COLUMNS):
        token = start + column
        logits = _clean(tl.load(row_ptr + token, mask=token < vocab_size, other=float("-inf")).to(tl.float32))
        best_at = tl.where(logits > best, token, best_at)
        best = tl.maximum(best, logits)
    largest = tl.max(best, axis=0)
    most_likely = tl.min(tl.where(best == largest, best_at, vocab_size), axis=0)
    temperature = tl.load(temperatures_ptr + row)
    if (temperature == 0.0) | (largest == float("-inf")):
        tl.store(tokens_ptr + row, tl.where(largest == float("-inf"), 0, most_likely).to(tl.int64))
        return

    least_rank = tl.full([], 0, tl.uint32)
    least_scaled = tl.full([], float("-inf"), tl.float32)
    expected = tl.full([], 0.0, tl.float32)
    least_typical = tl.full([], 0, tl.uint32)
    if FILTERED:
        top_k = tl.load(top_k_ptr + row)
        if (top_k > 0) & (top_k < vocab_size):
            least_rank = _find_rank(
                row_ptr, vocab_size, largest, temperature, least_rank, least_scaled, expected,
                top_k.to(tl.float32), False, False, COLUMNS,
            )  # fmt: skip
        top_p = tl.load(top_p_ptr + row)
        if top_p < 1.0:
            mass = tl.zeros([COLUMNS], tl.float32)
            for start in range(0, vocab_size, COLUMNS):
                mass += _kept_weights(
                    row_ptr, start + column, vocab_size, largest, temperature, least_rank, least_scaled,
                    expected, least_typical, False,
                )  # fmt: skip
            wanted = tl.sum(mass, axis=0) * top_p
            by_mass = _find_rank(
                row_ptr, vocab_size, largest, temperature, least_rank, least_scaled, expected,
                wanted, True, False, COLUMNS,
            )  # fmt: skip
            least_rank = tl.maximum(least_rank, by_mass)
        min_p = tl.load(min_p_ptr + row)
        least_scaled = tl.where(min_p > 0.0, tl.log(tl.maximum(min_p, 1e-38)), float("-inf"))

    if TYPICAL:
        typical_p = tl.load(typical_p_ptr + row)
        if typical_p < 1.0:
            kept_mass = tl.zeros([COLUMNS], tl.float32)
            weighted = tl.zeros([COLUMNS], tl.float32)
            for start in range(0, vocab_size, COLUMNS):
                token = start + column
                weights = _kept_weights(
                    row_ptr, token, vocab_size, largest, temperature, least_rank, least_scaled,
                    expected, least_typical, False,
                )  # fmt: skip
                scaled = _load_scaled(row_ptr, token, vocab_size, largest, temperature)
                kept_mass += weights
                weighted += weights * tl.where(weights > 0.0, scaled, 0.0)
            total_mass = tl.sum(kept_mass, axis=0)
            expected = tl.sum(weighted, axis=0) / total_mass
            least_typical = _find_rank(
                row_ptr, vocab_size, largest, temperature, least_rank, least_scaled, expected,
                total_mass * typical_p, True, True, COLUMNS,
            )  # fmt: skip

    first_key, second_key = row_keys(
        tl.load(seeds_ptr + row), tl.load(sample_indices_ptr + row), tl.load(positions_ptr + row)
    )
    best = tl.full([COLUMNS], -1.0, tl.float32)
    best_at = column
    for start in range(0, vocab_size, COLUMNS):
        token = start + column
        weights = _kept_weights(
            row_ptr, token, vocab_size, largest, temperature, least_rank, least_scaled,
            expected, least_typical, TYPICAL,
        )  # fmt: skip
        ratio = tl.where(weights > 0.0, weights / exponential(token, first_key, second_key), -1.0)
        best_at = tl.where(ratio > best, token, best_at)
        best = tl.maximum(best, ratio)
    first = tl.max(best, axis=0)
    drawn = tl.min(tl.where(best == first, best_at, vocab_size), axis=0)
    tl.store(tokens_ptr + row, drawn.to(tl.int64))
