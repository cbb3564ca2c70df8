"""Sampling without a sort: every row's parts look for its best token together.

Greedy takes the largest logit of each part, then the best of the parts. In a draw, the tokens race
(`race.py`), each with a random number of its own: where there are filters, those that reach the threshold
that is found first (`thresholds.py`). Nothing else in the batch has a part in it.

Bytes: the logits, once for greedy and for a draw without filters; with them, once for their parts' largest,
what the thresholds take, and those of the parts that race. Once is 0.5 MB a row for 128 256 tokens of
float32, so that a few rows cost their launches.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import torch
from torch import Tensor

from tokenwire_kernels.batch import SamplingBatch
from tokenwire_kernels.triton.race import race
from tokenwire_kernels.triton.row_parts import (
    PART,
    best_of_part_kernel,
    best_of_parts_kernel,
    parts_of,
)
from tokenwire_kernels.triton.sizes import next_power_of_2
from tokenwire_kernels.triton.thresholds import filter_thresholds
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
    best, _ = _best_of_each_part(logits)
    return race(logits, batch, best, filter_thresholds(logits, batch, best))


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
