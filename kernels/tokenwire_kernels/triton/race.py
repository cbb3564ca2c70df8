"""The race that draws a row's token, for one reading of its logits.

A token's time is its exponential over its weight: the first is drawn. The first of each part is found without
the rest of its row, since what the row's largest logit does to the weights, it does to all alike; then the
first of the parts' firsts.

With filters, only tokens whose scaled logit reaches the row's threshold race (`thresholds.py`), and parts
without any are not read.

A number that is exponentially distributed costs more than all else. It is never below the uniform number
that it is made from, so a part finds its token of the least uniform number over weight, and the time of that
one. Only where another's bound is before that time, about once in a hundred parts, it needs all exponentials.
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
from tokenwire_kernels.triton.row_parts import PART, largest_of_row
from tokenwire_kernels.triton.row_search import clean, racing, scaled_of
from tokenwire_kernels.triton.sizes import ceil_div, next_power_of_2

_PART = 4096
"""Tokens of a part without filters: a power of two, as is PART."""
_FEW = tl.constexpr(512)
"""Tokens whose exponentials a part looks at together."""
_LARGEST = tl.constexpr(3.4028234663852886e38)


def race(
    logits: Tensor, batch: SamplingBatch, best: Tensor | None = None, thresholds: Tensor | None = None
) -> Tensor:
    """A token drawn from each row, as in `reference.sampling.sample`.

    Args:
        logits: [num_rows, vocab_size].
        batch: whose filters are not looked at.
        best: float32 [num_rows, parts_of(vocab_size)]: the largest logit of each part. None: no filters.
        thresholds: float32 [num_rows]: the least scaled logit that is drawn. None: no filters.

    Returns:
        int64 [num_rows].
    """
    num_rows, vocab_size = logits.shape
    columns = _PART if best is None else PART
    parts = ceil_div(vocab_size, columns)
    firsts = torch.empty((num_rows, parts), dtype=torch.int32, device=logits.device)
    tokens = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    row = (
        batch.temperatures, best, thresholds, batch.seeds, batch.sample_indices, batch.positions,
        logits.stride(0), parts,
    )  # fmt: skip
    padded_parts = next_power_of_2(parts)
    _first_of_part_kernel[firsts.shape](
        logits, firsts, *row, vocab_size, PARTS=padded_parts, COLUMNS=columns, num_warps=4
    )
    _first_of_row_kernel[(num_rows,)](logits, firsts, *row, tokens, PARTS=padded_parts, num_warps=1)
    return tokens


@triton.jit
def _first_of_part_kernel(
    logits_ptr, firsts_ptr, temperatures_ptr, best_ptr, thresholds_ptr, seeds_ptr, sample_indices_ptr,
    positions_ptr, row_stride, num_parts, vocab_size, PARTS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The token of a part that comes first; of a greedy row, its most likely one; any, if none races."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row_ptr = logits_ptr + row * row_stride
    firsts_ptr += row * num_parts + part
    temperature = tl.load(temperatures_ptr + row)
    threshold, largest_of_all = float("-inf"), 0.0
    if thresholds_ptr is not None:
        threshold = tl.load(thresholds_ptr + row)
        largest_of_all = largest_of_row(best_ptr, row, num_parts, PARTS)
        best = tl.load(best_ptr + row * num_parts + part)
        reaches = scaled_of(best, largest_of_all, temperature) >= threshold
        if not (reaches | (best == largest_of_all)):
            tl.store(firsts_ptr, part * COLUMNS)
            return
    lane = tl.arange(0, COLUMNS)
    token = part * COLUMNS + lane
    logits = tl.load(row_ptr + token, mask=token < vocab_size, other=float("-inf")).to(tl.float32)
    if temperature == 0.0:
        _, first = tl.max(clean(logits), axis=0, return_indices=True, return_indices_tie_break_left=True)
    else:
        first_key, second_key = row_keys(
            tl.load(seeds_ptr + row), tl.load(sample_indices_ptr + row), tl.load(positions_ptr + row)
        )
        if thresholds_ptr is not None:
            logits = racing(logits, largest_of_all, temperature, threshold)
        largest = tl.max(logits, axis=0)
        least_times = uniform(token, first_key, second_key) * _per_weight(logits, largest, temperature)
        # Positive numbers order like the integers of their bits; the last of those say whose they are.
        LAST: tl.constexpr = COLUMNS - 1
        bounds = (least_times.to(tl.int32, bitcast=True) & (0x7FFFFFFF - LAST)) | lane
        least = tl.min(bounds, axis=0)
        first = least & LAST
        number = uniform(part * COLUMNS + first, first_key, second_key)
        time = (least | LAST).to(tl.float32, bitcast=True) * (exponential(number) / number) * 1.00001
        latest = time.to(tl.int32, bitcast=True) | LAST
        to_next = tl.min((bounds - least - 1).to(tl.uint32, bitcast=True), axis=0)
        if to_next < (latest - least).to(tl.uint32, bitcast=True):
            first = _first_of_all(
                row_ptr, part * COLUMNS, vocab_size, largest, largest_of_all, temperature, threshold,
                first_key, second_key, thresholds_ptr is not None, COLUMNS,
            )  # fmt: skip
    tl.store(firsts_ptr, part * COLUMNS + first)


@triton.jit
def _first_of_all(
    row_ptr, begin, vocab_size, largest, largest_of_all, temperature, threshold, first_key, second_key,
    FILTERED: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Which of a part's tokens comes first, by all their times."""
    first, soonest = 0, tl.full([], float("inf"), tl.float32)
    for start in range(0, COLUMNS, _FEW):
        token = begin + start + tl.arange(0, _FEW)
        logits = tl.load(row_ptr + token, mask=token < vocab_size, other=float("-inf"))
        logits = clean(logits.to(tl.float32))
        if FILTERED:
            logits = racing(logits, largest_of_all, temperature, threshold)
        per_weight = _per_weight(logits, largest, temperature)
        times = exponential(uniform(token, first_key, second_key)) * per_weight
        time, at = tl.min(times, axis=0, return_indices=True, return_indices_tie_break_left=True)
        first = tl.where(time < soonest, start + at, first)
        soonest = tl.minimum(time, soonest)
    return first


@triton.jit
def _first_of_row_kernel(
    logits_ptr, firsts_ptr, temperatures_ptr, best_ptr, thresholds_ptr, seeds_ptr, sample_indices_ptr,
    positions_ptr, row_stride, num_parts, tokens_ptr, PARTS: tl.constexpr,
):  # fmt: skip
    """The first of the parts' firsts; of a greedy row, the most likely of them."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, PARTS)
    token = tl.load(firsts_ptr + row * num_parts + part, mask=part < num_parts, other=0)
    logits = tl.load(logits_ptr + row * row_stride + token, mask=part < num_parts, other=float("-inf"))
    logits = clean(logits.to(tl.float32))
    temperature = tl.load(temperatures_ptr + row)
    first_key, second_key = row_keys(
        tl.load(seeds_ptr + row), tl.load(sample_indices_ptr + row), tl.load(positions_ptr + row)
    )
    runners = logits
    if thresholds_ptr is not None:
        largest_of_all = largest_of_row(best_ptr, row, num_parts, PARTS)
        runners = racing(logits, largest_of_all, temperature, tl.load(thresholds_ptr + row))
    per_weight = _per_weight(runners, tl.max(runners, axis=0), temperature)
    times = exponential(uniform(token, first_key, second_key)) * per_weight
    times = tl.where(temperature == 0.0, -logits, times)
    _, winner = tl.min(times, axis=0, return_indices=True, return_indices_tie_break_left=True)
    tl.store(tokens_ptr + row, tl.load(firsts_ptr + row * num_parts + winner).to(tl.int64))


@triton.jit
def _per_weight(logits, largest, temperature):
    """1 / exp((logits - largest) / temperature): infinity for minus infinity, NaN for NaN."""
    depth = tl.maximum(clean(largest), -_LARGEST) - tl.minimum(
        logits, _LARGEST, propagate_nan=tl.PropagateNan.ALL
    )
    return tl.exp2(depth * tl.minimum(1.4426950408889634 / temperature, _LARGEST))
