"""The race that draws a row's token, for one reading of its logits.

A token's time is its exponential over its weight: the first is drawn. The first of each part is found without
the rest of its row, since what the row's largest logit does to the weights, it does to all alike; then the
first of the parts' firsts.

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
from tokenwire_kernels.triton.row_search import clean
from tokenwire_kernels.triton.sizes import ceil_div, next_power_of_2

_PART = 4096
"""Tokens of a part: a power of two."""
_FEW = tl.constexpr(512)
"""Tokens whose exponentials a part looks at together."""
_LARGEST = tl.constexpr(3.4028234663852886e38)


def race(logits: Tensor, batch: SamplingBatch) -> Tensor:
    """A token drawn from each row, int64 [num_rows], as in `reference.sampling.sample` without filters."""
    num_rows, vocab_size = logits.shape
    parts = ceil_div(vocab_size, _PART)
    firsts = torch.empty((num_rows, parts), dtype=torch.int32, device=logits.device)
    tokens = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    row = (batch.temperatures, batch.seeds, batch.sample_indices, batch.positions)
    sizes = (vocab_size, logits.stride(0))
    _first_of_part_kernel[firsts.shape](logits, firsts, *row, *sizes, COLUMNS=_PART, num_warps=4)
    _first_of_row_kernel[(num_rows,)](
        logits, firsts, tokens, *row, logits.stride(0), parts, PARTS=next_power_of_2(parts), num_warps=1
    )
    return tokens


@triton.jit
def _first_of_part_kernel(
    logits_ptr, firsts_ptr, temperatures_ptr, seeds_ptr, sample_indices_ptr, positions_ptr,
    vocab_size, row_stride, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The token of a part that comes first; of a greedy row, its most likely one."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row_ptr = logits_ptr + row * row_stride
    lane = tl.arange(0, COLUMNS)
    token = part * COLUMNS + lane
    logits = tl.load(row_ptr + token, mask=token < vocab_size, other=float("-inf")).to(tl.float32)
    temperature = tl.load(temperatures_ptr + row)
    if temperature == 0.0:
        _, first = tl.max(clean(logits), axis=0, return_indices=True, return_indices_tie_break_left=True)
    else:
        first_key, second_key = row_keys(
            tl.load(seeds_ptr + row), tl.load(sample_indices_ptr + row), tl.load(positions_ptr + row)
        )
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
                row_ptr, part * COLUMNS, vocab_size, largest, temperature, first_key, second_key, COLUMNS
            )
    tl.store(firsts_ptr + row * tl.num_programs(1) + part, part * COLUMNS + first)


@triton.jit
def _first_of_all(
    row_ptr, begin, vocab_size, largest, temperature, first_key, second_key, COLUMNS: tl.constexpr
):
    """Which of a part's tokens comes first, by all their times."""
    first, soonest = 0, tl.full([], float("inf"), tl.float32)
    for start in range(0, COLUMNS, _FEW):
        token = begin + start + tl.arange(0, _FEW)
        logits = tl.load(row_ptr + token, mask=token < vocab_size, other=float("-inf"))
        per_weight = _per_weight(clean(logits.to(tl.float32)), largest, temperature)
        times = exponential(uniform(token, first_key, second_key)) * per_weight
        time, at = tl.min(times, axis=0, return_indices=True, return_indices_tie_break_left=True)
        first = tl.where(time < soonest, start + at, first)
        soonest = tl.minimum(time, soonest)
    return first


@triton.jit
def _first_of_row_kernel(
    logits_ptr, firsts_ptr, tokens_ptr, temperatures_ptr, seeds_ptr, sample_indices_ptr, positions_ptr,
    row_stride, num_parts, PARTS: tl.constexpr,
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
    per_weight = _per_weight(logits, tl.max(logits, axis=0), temperature)
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
