"""Sampling of rows of which any has typical-p, which few ask for: one program for each row.

It takes its row's largest logit, thresholds and race in turn, each a pass or more over the row.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwire_kernels.batch import SamplingBatch
from tokenwire_kernels.triton.random import exponential, row_keys, uniform
from tokenwire_kernels.triton.row_search import (
    clean,
    filter_rank,
    find_rank,
    kept_weights,
    least_scaled_of,
    load_scaled,
)

_COLUMNS = 1024


def sample_typical(logits: Tensor, batch: SamplingBatch) -> Tensor:
    """See `reference.sampling.sample`."""
    num_rows, vocab_size = logits.shape
    tokens = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    _typical_kernel[(num_rows,)](
        logits, tokens, batch.temperatures, batch.top_k, batch.top_p, batch.min_p, batch.typical_p,
        batch.seeds, batch.sample_indices, batch.positions, vocab_size, logits.stride(0),
        FILTERED=not batch.all_unfiltered, COLUMNS=_COLUMNS, num_warps=16,
    )  # fmt: skip
    return tokens


@triton.jit
def _typical_kernel(
    logits_ptr, tokens_ptr, temperatures_ptr, top_k_ptr, top_p_ptr, min_p_ptr, typical_p_ptr,
    seeds_ptr, sample_indices_ptr, positions_ptr, vocab_size, row_stride,
    FILTERED: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * row_stride
    column = tl.arange(0, COLUMNS)

    best = tl.full([COLUMNS], float("-inf"), tl.float32)
    best_at = column
    for start in range(0, vocab_size, COLUMNS):
        token = start + column
        logits = clean(tl.load(row_ptr + token, mask=token < vocab_size, other=float("-inf")).to(tl.float32))
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
        top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
        least_rank = filter_rank(row_ptr, vocab_size, largest, temperature, top_k, top_p, COLUMNS)
        least_scaled = least_scaled_of(tl.load(min_p_ptr + row))

    typical_p = tl.load(typical_p_ptr + row)
    if typical_p < 1.0:
        kept_mass = tl.zeros([COLUMNS], tl.float32)
        weighted = tl.zeros([COLUMNS], tl.float32)
        for start in range(0, vocab_size, COLUMNS):
            token = start + column
            weights = kept_weights(
                row_ptr, token, vocab_size, largest, temperature, least_rank, least_scaled,
                expected, least_typical, False,
            )  # fmt: skip
            scaled = load_scaled(row_ptr, token, vocab_size, largest, temperature)
            kept_mass += weights
            weighted += weights * tl.where(weights > 0.0, scaled, 0.0)
        total_mass = tl.sum(kept_mass, axis=0)
        expected = tl.sum(weighted, axis=0) / total_mass
        least_typical = find_rank(
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
        weights = kept_weights(
            row_ptr, token, vocab_size, largest, temperature, least_rank, least_scaled,
            expected, least_typical, True,
        )  # fmt: skip
        ratio = tl.where(weights > 0.0, weights / exponential(uniform(token, first_key, second_key)), -1.0)
        best_at = tl.where(ratio > best, token, best_at)
        best = tl.maximum(best, ratio)
    first = tl.max(best, axis=0)
    drawn = tl.min(tl.where(best == first, best_at, vocab_size), axis=0)
    tl.store(tokens_ptr + row, drawn.to(tl.int64))
