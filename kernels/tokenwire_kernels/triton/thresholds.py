"""Top-k and top-p without a sort: each row's threshold, in three launches over all of its parts.

First, every part counts its tokens, and adds up their weights, above each of 32 fixed levels below the
largest logit. The sums of a row say between which two levels its threshold lies; second, every part lists its
logits there (all above, where there is a top-k, since top-p is of what top-k keeps). Third, one program
searches the short list for the exact threshold (`row_search.py` says how). A row whose list does not fit,
which an almost flat distribution may have, is searched as a whole.

Bytes: each logit twice more; a list has a few hundred entries as a rule.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwire_kernels.batch import SamplingBatch
from tokenwire_kernels.triton.row_parts import PART, largest_of_row, parts_of
from tokenwire_kernels.triton.row_search import filter_rank, load_scaled, rank_of

LEVELS = 32
CAPACITY = 512
"""Entries of a part's list."""
_LEVELS, _CAPACITY = tl.constexpr(LEVELS), tl.constexpr(CAPACITY)
_COLUMNS = 1024
"""Entries that the searching program looks at together."""


def filter_ranks(logits: Tensor, batch: SamplingBatch, best: Tensor) -> Tensor:
    """The least rank that top-k and top-p keep, of each row.

    Args:
        logits: [num_rows, vocab_size].
        best: float32 [num_rows, parts]: the largest logit of each part.

    Returns:
        int32 [num_rows]: the bits of an unsigned number.
    """
    num_rows, vocab_size = logits.shape
    parts = parts_of(vocab_size)
    padded_parts = triton.next_power_of_2(parts)
    device = logits.device
    counts = torch.empty((num_rows, parts, LEVELS), dtype=torch.float32, device=device)
    masses = torch.empty((num_rows, parts, LEVELS), dtype=torch.float32, device=device)
    entries = torch.empty((num_rows, parts, CAPACITY), dtype=torch.float32, device=device)
    lengths = torch.empty((num_rows, parts), dtype=torch.int32, device=device)
    ranks = torch.empty(num_rows, dtype=torch.int32, device=device)
    row = (logits, best, batch.temperatures, batch.top_k, batch.top_p, counts, masses)
    sizes = (vocab_size, logits.stride(0), parts)
    _levels_kernel[(num_rows, parts)](*row, *sizes, PARTS=padded_parts, COLUMNS=PART, num_warps=4)
    _list_kernel[(num_rows, parts)](
        *row, entries, lengths, *sizes, PARTS=padded_parts, COLUMNS=PART, num_warps=4
    )
    _search_kernel[(num_rows,)](
        *row, entries, lengths, ranks, *sizes,
        PARTS=padded_parts, WIDTH=max(1, min(CAPACITY, _COLUMNS // padded_parts)), COLUMNS=_COLUMNS,
        num_warps=8,
    )  # fmt: skip
    return ranks


@triton.jit
def _level(index):
    """Levels of scaled logits, ever farther apart: 0, -0.5, ... -8, -9, ... -16, -20, ... -40, and all."""
    near, middle = index * 0.5, 8.0 + (index - 16) * 1.0
    far = 16.0 + (index - 24) * 4.0
    depth = tl.where(index <= 16, near, tl.where(index <= 24, middle, far))
    return tl.where(index >= _LEVELS - 1, float("-inf"), -depth)


@triton.jit
def _is_filtered(top_k, top_p, temperature, largest, vocab_size):
    by_count = (top_k > 0) & (top_k < vocab_size)
    return (by_count | (top_p < 1.0)) & (temperature > 0.0) & (largest > float("-inf"))


@triton.jit
def _levels_kernel(
    logits_ptr, best_ptr, temperatures_ptr, top_k_ptr, top_p_ptr, counts_ptr, masses_ptr,
    vocab_size, row_stride, num_parts, PARTS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A part's tokens at or above each level, and their weights."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    temperature = tl.load(temperatures_ptr + row)
    top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
    largest = largest_of_row(best_ptr, row, num_parts, PARTS)
    if not _is_filtered(top_k, top_p, temperature, largest, vocab_size):
        return
    CHUNK: tl.constexpr = 256
    index = tl.arange(0, _LEVELS)
    level = _level(index)
    count = tl.zeros([_LEVELS, CHUNK], tl.float32)
    mass = tl.zeros([_LEVELS, CHUNK], tl.float32)
    for start in tl.static_range(0, COLUMNS, CHUNK):
        token = part * COLUMNS + start + tl.arange(0, CHUNK)
        scaled = load_scaled(logits_ptr + row * row_stride, token, vocab_size, largest, temperature)
        is_above = scaled[None, :] >= level[:, None]
        count += tl.where(is_above & (token < vocab_size)[None, :], 1.0, 0.0)
        mass += tl.where(is_above, tl.exp(scaled)[None, :], 0.0)
    at = (row * num_parts + part) * _LEVELS + index
    tl.store(counts_ptr + at, tl.sum(count, axis=1))
    tl.store(masses_ptr + at, tl.sum(mass, axis=1))


@triton.jit
def _bracket(counts_ptr, masses_ptr, row, num_parts, top_k, top_p, vocab_size, PARTS: tl.constexpr):
    """Where a row's list begins and ends (scaled logits; the end is not in it), the weights above its end,
    and the weights that top-p wants in all, where there is no top-k."""
    index = tl.arange(0, _LEVELS)
    part = tl.arange(0, PARTS)
    at = (row * num_parts + part[:, None]) * _LEVELS + index[None, :]
    by_count = (top_k > 0) & (top_k < vocab_size)
    sums_ptr = masses_ptr
    if by_count:
        sums_ptr = counts_ptr
    sums = tl.sum(tl.load(sums_ptr + at, mask=(part < num_parts)[:, None], other=0.0), axis=0)
    wanted = tl.sum(tl.where(index == _LEVELS - 1, sums, 0.0), axis=0) * top_p
    if by_count:
        wanted = top_k.to(tl.float32)
    found = tl.minimum(tl.sum((sums < wanted).to(tl.int32), axis=0), _LEVELS - 1)
    begin = tl.sum(tl.where(index == found, _level(index), 0.0), axis=0)
    end = tl.full([], float("inf"), tl.float32)
    above = tl.full([], 0.0, tl.float32)
    if (found > 0) & (not by_count):
        end = tl.sum(tl.where(index == found - 1, _level(index), 0.0), axis=0)
        above = tl.sum(tl.where(index == found - 1, sums, 0.0), axis=0)
    return begin, end, above, wanted


@triton.jit
def _list_kernel(
    logits_ptr, best_ptr, temperatures_ptr, top_k_ptr, top_p_ptr, counts_ptr, masses_ptr,
    entries_ptr, lengths_ptr, vocab_size, row_stride, num_parts, PARTS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A part's scaled logits between begin and end, in the order of their tokens, and how many there are."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    temperature = tl.load(temperatures_ptr + row)
    top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
    largest = largest_of_row(best_ptr, row, num_parts, PARTS)
    if not _is_filtered(top_k, top_p, temperature, largest, vocab_size):
        return
    begin, end, _, _ = _bracket(counts_ptr, masses_ptr, row, num_parts, top_k, top_p, vocab_size, PARTS)
    token = part * COLUMNS + tl.arange(0, COLUMNS)
    scaled = load_scaled(logits_ptr + row * row_stride, token, vocab_size, largest, temperature)
    is_listed = (scaled >= begin) & (scaled < end) & (token < vocab_size)
    place = tl.cumsum(is_listed.to(tl.int32), axis=0) - 1
    at = (row * num_parts + part) * _CAPACITY + place
    tl.store(entries_ptr + at, scaled, mask=is_listed & (place < _CAPACITY))
    tl.store(lengths_ptr + row * num_parts + part, tl.sum(is_listed.to(tl.int32), axis=0))


@triton.jit
def _search_kernel(
    logits_ptr, best_ptr, temperatures_ptr, top_k_ptr, top_p_ptr, counts_ptr, masses_ptr,
    entries_ptr, lengths_ptr, ranks_ptr, vocab_size, row_stride, num_parts,
    PARTS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The least rank that a row keeps."""
    row = tl.program_id(0).to(tl.int64)
    temperature = tl.load(temperatures_ptr + row)
    top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
    largest = largest_of_row(best_ptr, row, num_parts, PARTS)
    if not _is_filtered(top_k, top_p, temperature, largest, vocab_size):
        tl.store(ranks_ptr + row, 0)
        return
    part = tl.arange(0, PARTS)
    lengths = tl.load(lengths_ptr + row * num_parts + part, mask=part < num_parts, other=0)
    longest = tl.max(lengths, axis=0)
    if longest > _CAPACITY:
        rank = filter_rank(
            logits_ptr + row * row_stride, vocab_size, largest, temperature, top_k, top_p, COLUMNS
        )
        tl.store(ranks_ptr + row, rank.to(tl.int32, bitcast=True))
        return

    begin, _, above, wanted = _bracket(
        counts_ptr, masses_ptr, row, num_parts, top_k, top_p, vocab_size, PARTS
    )
    # The sums over the list may be rounded to a little less than those that its beginning was chosen by.
    rank = rank_of(begin)
    if (top_k > 0) & (top_k < vocab_size):
        rank = _find(
            entries_ptr, lengths_ptr, row, num_parts, longest, rank, 0.0, wanted, False, PARTS, WIDTH
        )
        mass = tl.zeros([PARTS * WIDTH], tl.float32)
        for start in range(0, longest, WIDTH):
            scaled, is_entry = _entries(entries_ptr, lengths_ptr, row, num_parts, start, PARTS, WIDTH)
            mass += tl.where(is_entry & (rank_of(scaled) >= rank), tl.exp(scaled), 0.0)
        wanted = tl.sum(mass, axis=0) * top_p
    if top_p < 1.0:
        rank = _find(
            entries_ptr, lengths_ptr, row, num_parts, longest, rank, above, wanted, True, PARTS, WIDTH
        )
    tl.store(ranks_ptr + row, rank.to(tl.int32, bitcast=True))


@triton.jit
def _entries(entries_ptr, lengths_ptr, row, num_parts, start, PARTS: tl.constexpr, WIDTH: tl.constexpr):
    """WIDTH entries of every part's list, from `start` on, and which of them there are."""
    index = tl.arange(0, PARTS * WIDTH)
    part, place = index // WIDTH, start + index % WIDTH
    length = tl.load(lengths_ptr + row * num_parts + part, mask=part < num_parts, other=0)
    at = (row * num_parts + part) * _CAPACITY + place
    return tl.load(entries_ptr + at, mask=place < length, other=float("-inf")), place < length


@triton.jit
def _find(
    entries_ptr, lengths_ptr, row, num_parts, longest, least, above, wanted,
    BY_MASS: tl.constexpr, PARTS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The largest rank, not below `least`, at or above which lie `wanted` entries, or that much weight of
    those not below `least`, `above` included."""
    digit = tl.arange(0, 16).to(tl.uint32)
    found = tl.full([], 0, tl.uint32)
    for step in range(8):
        pivot = found + (digit << (28 - 4 * step))
        sums = tl.zeros([16, PARTS * WIDTH], tl.float32)
        for start in range(0, longest, WIDTH):
            scaled, is_entry = _entries(entries_ptr, lengths_ptr, row, num_parts, start, PARTS, WIDTH)
            rank = rank_of(scaled)
            measure = tl.where(is_entry & (rank >= least), 1.0, 0.0)
            if BY_MASS:
                measure *= tl.exp(scaled)
            sums += tl.where(rank[None, :] >= pivot[:, None], measure[None, :], 0.0)
        enough = above + tl.sum(sums, axis=1) >= wanted
        found += tl.max(tl.where(enough, digit, 0).to(tl.int32), axis=0).to(tl.uint32) << (28 - 4 * step)
    return tl.maximum(found, least)
