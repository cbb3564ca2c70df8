"""Log-probabilities without a sort and without a copy of the logits.

First, every part of a row gives its largest logit, its sum of exponentials, and how many of its tokens are
above the scored one. The k-th largest of the parts' largest logits is below none of the k most likely tokens,
so second, those parts that reach it, about k, list their tokens from there on, largest first. Third, one
program a row puts the sums together and takes the k first of the lists.

Bytes: each logit once, in its own dtype, and those of about k parts again; a list is k numbers a part.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwire_kernels.triton.row_parts import PART, parts_of
from tokenwire_kernels.triton.row_search import clean
from tokenwire_kernels.triton.sizes import next_power_of_2

_LOWEST = tl.constexpr(-3.4028234663852886e38)
"""Stands for a logit of minus infinity, which a list tells from no logit at all."""
_COMPARED = tl.constexpr(16)
"""Parts that a program compares with all others at a time."""


def score_tokens(logits: Tensor, rows: Tensor | None, tokens: Tensor, num_top: int) -> tuple[Tensor, Tensor]:
    """See `reference.logprobs.score_tokens`. The lowest id is first among equals; each row is contiguous."""
    num_scored, vocab_size, device = len(tokens), logits.shape[1], logits.device
    parts = parts_of(vocab_size)
    padded_parts, width = next_power_of_2(parts), next_power_of_2(max(1, num_top))
    logprobs = torch.empty((num_scored, 1 + num_top), dtype=torch.float32, device=device)
    ids = torch.empty((num_scored, 1 + num_top), dtype=torch.int64, device=device)
    if num_scored == 0:
        return logprobs, ids
    best = torch.empty((num_scored, parts), dtype=torch.float32, device=device)
    mass, above = torch.empty_like(best), torch.empty_like(best, dtype=torch.int32)
    row = (logits, rows, tokens, best, mass, above)
    sizes = (vocab_size, logits.stride(0), parts)
    _sums_kernel[best.shape](*row, *sizes, COLUMNS=PART, num_warps=4)
    listed, listed_at, lengths = None, None, None
    if num_top > 0:
        listed = torch.empty((num_scored, parts, width), dtype=torch.float32, device=device)
        listed_at = torch.empty_like(listed, dtype=torch.int32)
        lengths = torch.empty_like(above)
        _list_kernel[best.shape](
            *row[:2], best, listed, listed_at, lengths, *sizes,
            NUM_TOP=num_top, WIDTH=width, PARTS=padded_parts, COLUMNS=PART, num_warps=4,
        )  # fmt: skip
    _finish_kernel[(num_scored,)](
        *row, listed, listed_at, lengths, logprobs, ids, logits.stride(0), parts,
        NUM_TOP=num_top, WIDTH=width, PARTS=padded_parts, num_warps=8,
    )  # fmt: skip
    return logprobs, ids


@triton.jit
def _row_of(logits_ptr, rows_ptr, row_stride, row):
    """Where a scored row begins."""
    if rows_ptr is not None:
        row = tl.load(rows_ptr + row)
    return logits_ptr + row * row_stride


@triton.jit
def _sums_kernel(
    logits_ptr, rows_ptr, tokens_ptr, best_ptr, mass_ptr, above_ptr, vocab_size, row_stride, num_parts,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """A part's largest logit, its exponentials below that, and how many logits are above the token's."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row_ptr = _row_of(logits_ptr, rows_ptr, row_stride, row)
    token = part * COLUMNS + tl.arange(0, COLUMNS)
    logits = tl.load(row_ptr + token, mask=token < vocab_size, other=float("-inf"))
    logits = clean(logits.to(tl.float32))
    of_token = clean(tl.load(row_ptr + tl.load(tokens_ptr + row)).to(tl.float32))
    best = tl.max(logits, axis=0)
    at = row * num_parts + part
    tl.store(best_ptr + at, best)
    tl.store(mass_ptr + at, tl.sum(tl.exp(logits - tl.maximum(best, _LOWEST)), axis=0))
    tl.store(above_ptr + at, tl.sum((logits > of_token).to(tl.int32), axis=0))


@triton.jit
def _list_kernel(
    logits_ptr, rows_ptr, best_ptr, listed_ptr, listed_at_ptr, lengths_ptr, vocab_size, row_stride, num_parts,
    NUM_TOP: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A part's largest logits that may be among the row's, at most NUM_TOP, and their tokens."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = row * num_parts + part
    least = _least(best_ptr + row * num_parts, num_parts, NUM_TOP, PARTS)
    if tl.load(best_ptr + at) < least:
        tl.store(lengths_ptr + at, 0)
        return
    token = part * COLUMNS + tl.arange(0, COLUMNS)
    row_ptr = _row_of(logits_ptr, rows_ptr, row_stride, row)
    logits = tl.load(row_ptr + token, mask=token < vocab_size, other=float("-inf"))
    logits = clean(logits.to(tl.float32))
    is_listed = (logits >= least) & (token < vocab_size)
    left = tl.where(is_listed, tl.maximum(logits, _LOWEST), float("-inf"))
    length = tl.minimum(tl.sum(is_listed.to(tl.int32), axis=0), NUM_TOP)
    for place in range(length):
        largest, index = tl.max(left, axis=0, return_indices=True, return_indices_tie_break_left=True)
        tl.store(listed_ptr + at * WIDTH + place, largest)
        tl.store(listed_at_ptr + at * WIDTH + place, part * COLUMNS + index)
        left = tl.where(token == part * COLUMNS + index, float("-inf"), left)
    tl.store(lengths_ptr + at, length)


@triton.jit
def _least(best_ptr, num_parts, NUM_TOP: tl.constexpr, PARTS: tl.constexpr):
    """The largest logit of the part that comes NUM_TOP-th by it; minus infinity where there are fewer."""
    part = tl.arange(0, PARTS)
    best = tl.load(best_ptr + part, mask=part < num_parts, other=float("-inf"))
    num_before = tl.zeros([PARTS], tl.int32)
    for start in range(0, num_parts, _COMPARED):
        other = start + tl.arange(0, _COMPARED)
        theirs = tl.load(best_ptr + other, mask=other < num_parts, other=float("-inf"))
        is_before = theirs[None, :] > best[:, None]
        is_before |= (theirs[None, :] == best[:, None]) & (other[None, :] < part[:, None])
        num_before += tl.sum(is_before.to(tl.int32), axis=1)
    return tl.max(tl.where(num_before == NUM_TOP - 1, best, float("-inf")), axis=0)


@triton.jit
def _finish_kernel(
    logits_ptr, rows_ptr, tokens_ptr, best_ptr, mass_ptr, above_ptr, listed_ptr, listed_at_ptr, lengths_ptr,
    logprobs_ptr, ids_ptr, row_stride, num_parts,
    NUM_TOP: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """A row's log-probabilities, the token's rank, and the most likely tokens."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, PARTS)
    at, is_part = row * num_parts + part, part < num_parts
    best = tl.load(best_ptr + at, mask=is_part, other=float("-inf"))
    mass = tl.load(mass_ptr + at, mask=is_part, other=0.0)
    above = tl.load(above_ptr + at, mask=is_part, other=0)
    largest = tl.maximum(tl.max(best, axis=0), _LOWEST)
    total = tl.sum(mass * tl.exp(best - largest), axis=0)
    normalizer = tl.log(tl.maximum(total, 1.0))

    row_ptr = _row_of(logits_ptr, rows_ptr, row_stride, row)
    of_token = clean(tl.load(row_ptr + tl.load(tokens_ptr + row)).to(tl.float32))
    out = row * (1 + NUM_TOP)
    tl.store(logprobs_ptr + out, of_token - largest - normalizer)
    tl.store(ids_ptr + out, (tl.sum(above, axis=0) + 1).to(tl.int64))
    if NUM_TOP > 0:
        entry = tl.arange(0, PARTS * WIDTH)
        its_part = entry // WIDTH
        length = tl.load(lengths_ptr + row * num_parts + its_part, mask=its_part < num_parts, other=0)
        listed_at = row * num_parts * WIDTH
        left = tl.load(
            listed_ptr + listed_at + entry, mask=entry % WIDTH < length, other=float("-inf")
        )  # fmt: skip
        for place in range(1, NUM_TOP + 1):
            logit, index = tl.max(left, axis=0, return_indices=True, return_indices_tie_break_left=True)
            left = tl.where(entry == index, float("-inf"), left)
            logit = tl.where(logit > _LOWEST, logit, float("-inf"))
            tl.store(logprobs_ptr + out + place, logit - largest - normalizer)
            token = tl.load(listed_at_ptr + listed_at + index)
            tl.store(ids_ptr + out + place, token.to(tl.int64))
