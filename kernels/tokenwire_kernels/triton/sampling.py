"""Sampling without a sort: every row's parts look for its best token together.

Greedy takes the largest logit of each part, then the best of the parts. In a draw, the tokens race
(`race.py`), each with a random number of its own. Where there are filters, it first finds what they keep
(`thresholds.py`); then every part's kept tokens race, and the first of the parts' winners is the token.
Nothing else in the batch has a part in it.

Bytes: the logits, once for greedy and for a draw, four times where it is filtered; 0.5 MB a row and pass for
128 256 tokens of float32, so that a few rows cost their launches.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwire_kernels.batch import SamplingBatch
from tokenwire_kernels.triton.race import race
from tokenwire_kernels.triton.random import exponential, row_keys, uniform
from tokenwire_kernels.triton.row_parts import (
    PART,
    best_of_part_kernel,
    best_of_parts_kernel,
    largest_of_row,
    parts_of,
)
from tokenwire_kernels.triton.row_search import clean, least_scaled_of, load_scaled, rank_of
from tokenwire_kernels.triton.sizes import next_power_of_2
from tokenwire_kernels.triton.thresholds import filter_ranks
from tokenwire_kernels.triton.typical import sample_typical


def greedy(logits: Tensor) -> Tensor:
    """See `reference.sampling.greedy`."""
    best, best_at = _best_of_each_part(logits)
    return _best_of_parts(best, best_at)


def sample(logits: Tensor, batch: SamplingBatch) -> Tensor:
    """See `reference.sampling.sample`."""
    if batch.all_greedy:
        return greedy(logits)
    if batch.typical_p is not None:
        return sample_typical(logits, batch)
    if batch.all_unfiltered:
        return race(logits, batch)
    best, best_at = _best_of_each_part(logits)
    ratios, tokens = torch.empty_like(best), torch.empty_like(best_at)
    _race_kernel[best.shape](
        logits, best, ratios, tokens, batch.temperatures, filter_ranks(logits, batch, best), batch.min_p,
        batch.seeds, batch.sample_indices, batch.positions, logits.shape[1], logits.stride(0), best.shape[1],
        PARTS=next_power_of_2(best.shape[1]), COLUMNS=PART, num_warps=4,
    )  # fmt: skip
    return _best_of_parts(ratios, tokens)


def _best_of_each_part(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit of each part [num_rows, parts], and its token."""
    num_rows, vocab_size = logits.shape
    shape = (num_rows, parts_of(vocab_size))
    best = torch.empty(shape, dtype=torch.float32, device=logits.device)
    best_at = torch.empty(shape, dtype=torch.int64, device=logits.device)
    best_of_part_kernel[shape](logits, best, best_at, vocab_size, logits.stride(0), COLUMNS=PART, num_warps=4)
    return best, best_at


def _best_of_parts(best: Tensor, best_at: Tensor) -> Tensor:
    num_rows, parts = best.shape
    tokens = torch.empty(num_rows, dtype=torch.int64, device=best.device)
    best_of_parts_kernel[(num_rows,)](best, best_at, tokens, parts, PARTS=next_power_of_2(parts), num_warps=1)
    return tokens


@triton.jit
def _race_kernel(
    logits_ptr, best_ptr, ratios_ptr, tokens_ptr, temperatures_ptr, ranks_ptr, min_p_ptr,
    seeds_ptr, sample_indices_ptr, positions_ptr, vocab_size, row_stride, num_parts,
    PARTS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The token of a part that comes first, and its weight over its number; of a greedy row, or one with
    nothing to choose from, its largest logit."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row_ptr = logits_ptr + row * row_stride
    token = part * COLUMNS + tl.arange(0, COLUMNS)
    temperature = tl.load(temperatures_ptr + row)
    largest = largest_of_row(best_ptr, row, num_parts, PARTS)
    if (temperature == 0.0) | (largest == float("-inf")):
        logits = tl.load(row_ptr + token, mask=token < vocab_size, other=float("-inf"))
        ratio = clean(logits.to(tl.float32))
    else:
        scaled = load_scaled(row_ptr, token, vocab_size, largest, temperature)
        is_kept = scaled > float("-inf")
        is_kept = is_kept & (rank_of(scaled) >= tl.load(ranks_ptr + row).to(tl.uint32, bitcast=True))
        is_kept = is_kept & (scaled >= least_scaled_of(tl.load(min_p_ptr + row)))
        first_key, second_key = row_keys(
            tl.load(seeds_ptr + row), tl.load(sample_indices_ptr + row), tl.load(positions_ptr + row)
        )
        weights = tl.where(is_kept, tl.exp(scaled), 0.0)
        ratio = tl.where(weights > 0.0, weights / exponential(uniform(token, first_key, second_key)), -1.0)
    best, best_at = tl.max(ratio, axis=0, return_indices=True, return_indices_tie_break_left=True)
    tl.store(ratios_ptr + row * num_parts + part, best)
    tl.store(tokens_ptr + row * num_parts + part, (part * COLUMNS + best_at).to(tl.int64))
