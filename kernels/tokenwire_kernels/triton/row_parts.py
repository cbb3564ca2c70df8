"""Rows of logits in parts: every row is read by many programs, so that a few rows, too, use the whole GPU.

What a row needs of all its parts (its largest logit, the sums behind a threshold) goes through memory, and
is put together in the order of the parts: a result depends on nothing around its row.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import triton
import triton.language as tl

from tokenwire_kernels.triton.row_search import clean
from tokenwire_kernels.triton.sizes import ceil_div

PART = 2048
"""Tokens of a part."""
_COMPARED = tl.constexpr(16)
"""Parts that a program compares with all others at a time."""


def parts_of(vocab_size: int) -> int:
    """Parts of a row."""
    return ceil_div(vocab_size, PART)


@triton.jit
def best_of_part_kernel(logits_ptr, best_ptr, best_at_ptr, vocab_size, row_stride, COLUMNS: tl.constexpr):
    """A part's largest logit, and its token: the lowest among equals."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token = part * COLUMNS + tl.arange(0, COLUMNS)
    logits = tl.load(logits_ptr + row * row_stride + token, mask=token < vocab_size, other=float("-inf"))
    best, best_at = tl.max(
        clean(logits.to(tl.float32)), axis=0, return_indices=True, return_indices_tie_break_left=True
    )
    tl.store(best_ptr + row * tl.num_programs(1) + part, best)
    tl.store(best_at_ptr + row * tl.num_programs(1) + part, (part * COLUMNS + best_at).to(tl.int64))


@triton.jit
def best_of_parts_kernel(best_ptr, best_at_ptr, tokens_ptr, num_parts, PARTS: tl.constexpr):
    """The token of the best part of a row: the first among equals."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, PARTS)
    best = tl.load(best_ptr + row * num_parts + part, mask=part < num_parts, other=float("-inf"))
    _, winner = tl.max(best, axis=0, return_indices=True, return_indices_tie_break_left=True)
    tl.store(tokens_ptr + row, tl.load(best_at_ptr + row * num_parts + winner))


@triton.jit
def largest_of_row(best_ptr, row, num_parts, PARTS: tl.constexpr):
    """A row's largest logit, from those of its parts."""
    part = tl.arange(0, PARTS)
    best = tl.load(best_ptr + row * num_parts + part, mask=part < num_parts, other=float("-inf"))
    return tl.max(best, axis=0)


@triton.jit
def kth_best(best_ptr, row, num_parts, k, PARTS: tl.constexpr):
    """The k-th largest of the largest logits of a row's parts."""
    part = tl.arange(0, PARTS)
    best = tl.load(best_ptr + row * num_parts + part, mask=part < num_parts, other=float("-inf"))
    num_reaching = tl.zeros([PARTS], tl.int32)
    for start in range(0, num_parts, _COMPARED):
        other = start + tl.arange(0, _COMPARED)
        theirs = tl.load(best_ptr + row * num_parts + other, mask=other < num_parts, other=float("-inf"))
        is_part = (other < num_parts)[None, :]
        num_reaching += tl.sum(((theirs[None, :] >= best[:, None]) & is_part).to(tl.int32), axis=1)
    return tl.max(tl.where((num_reaching >= k) & (part < num_parts), best, float("-inf")), axis=0)
