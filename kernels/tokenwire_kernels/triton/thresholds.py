"""Top-k, top-p and min-p without a sort: each row's threshold, in launches over all of its parts.

A row's short list of logits holds its threshold. Where top-k is no more than the parts, the k-th largest of
the parts' largest logits is not above it, and begins the list. Else, every part first counts its tokens, or
adds up their weights where there is no top-k, at or above each of 32 fixed levels below the largest logit,
and the sums say between which two levels the threshold lies. Then every part that reaches so far lists its
logits there (all above, where there is a top-k, since top-p is of what top-k keeps), and one program searches
the list for the exact threshold (`row_search.py` says how). A row whose list does not fit, which an almost
flat distribution may have, is searched as a whole.

Bytes: each logit once more for the levels, where they are needed, and those of the parts that list any; a
list has a few hundred entries as a rule.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwire_kernels.batch import SamplingBatch
from tokenwire_kernels.triton.row_parts import PART, kth_best, largest_of_row, parts_of
from tokenwire_kernels.triton.row_search import (
    filter_rank,
    least_scaled_of,
    load_scaled,
    rank_of,
    scaled_of,
    scaled_of_rank,
)
from tokenwire_kernels.triton.sizes import next_power_of_2

LEVELS = 32
CAPACITY = 512
"""Entries of a part's list."""
_LEVELS, _CAPACITY = tl.constexpr(LEVELS), tl.constexpr(CAPACITY)
_HALVINGS = tl.constexpr(16)
"""Steps in which a part raises the beginning of its list."""
_COLUMNS = 1024
"""Entries, or logits, that the searching program looks at together."""


def filter_thresholds(logits: Tensor, batch: SamplingBatch, best: Tensor) -> Tensor:
    """The least scaled logit that top-k, top-p and min-p keep, of each row; of a greedy row, 0.

    Args:
        logits: [num_rows, vocab_size].
        best: float32 [num_rows, parts]: the largest logit of each part.

    Returns:
        float32 [num_rows].
    """
    num_rows, vocab_size = logits.shape
    parts = parts_of(vocab_size)
    padded_parts = next_power_of_2(parts)
    device = logits.device
    sums = torch.empty((num_rows, parts, LEVELS), dtype=torch.float32, device=device)
    brackets = torch.empty((num_rows, 4), dtype=torch.float32, device=device)
    entries = torch.empty((num_rows, parts, CAPACITY), dtype=torch.float32, device=device)
    lengths = torch.empty((num_rows, parts), dtype=torch.int32, device=device)
    thresholds = torch.empty(num_rows, dtype=torch.float32, device=device)
    row = (best, batch.temperatures, batch.top_k, batch.top_p)
    sizes = (vocab_size, logits.stride(0), parts)
    _levels_kernel[(num_rows, parts)](
        logits, *row, sums, *sizes, PARTS=padded_parts, COLUMNS=PART, num_warps=4
    )
    _bracket_kernel[(num_rows,)](*row, sums, brackets, vocab_size, parts, PARTS=padded_parts, num_warps=4)
    _list_kernel[(num_rows, parts)](
        logits, *row, brackets, entries, lengths, *sizes, PARTS=padded_parts, COLUMNS=PART, num_warps=4
    )
    _search_kernel[(num_rows,)](
        logits, *row, batch.min_p, brackets, entries, lengths, thresholds, *sizes,
        PARTS=padded_parts, WIDTH=max(1, min(CAPACITY, _COLUMNS // padded_parts)), COLUMNS=_COLUMNS,
        num_warps=16,
    )  # fmt: skip
    return thresholds


@triton.jit
def _level(index):
    """Levels of scaled logits, ever farther apart: 0, -0.5, ... -8, -9, ... -16, -20, ... -40, and all."""
    near, middle = index * 0.5, 8.0 + (index - 16) * 1.0
    far = 16.0 + (index - 24) * 4.0
    depth = tl.where(index <= 16, near, tl.where(index <= 24, middle, far))
    return tl.where(index >= _LEVELS - 1, float("-inf"), -depth)


@triton.jit
def _is_counted(top_k, vocab_size):
    """Whether top-k is in effect: then tokens are counted, else weighed."""
    return (top_k > 0) & (top_k < vocab_size)


@triton.jit
def _is_searched(top_k, top_p, temperature, vocab_size):
    return (_is_counted(top_k, vocab_size) | (top_p < 1.0)) & (temperature > 0.0)


@triton.jit
def _levels_kernel(
    logits_ptr, best_ptr, temperatures_ptr, top_k_ptr, top_p_ptr, sums_ptr,
    vocab_size, row_stride, num_parts, PARTS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """How many of a part's tokens are at or above each level, or their weight."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    temperature = tl.load(temperatures_ptr + row)
    top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
    is_counted = _is_counted(top_k, vocab_size)
    if (not _is_searched(top_k, top_p, temperature, vocab_size)) | (is_counted & (top_k <= num_parts)):
        return
    largest = largest_of_row(best_ptr, row, num_parts, PARTS)
    CHUNK: tl.constexpr = 256
    index = tl.arange(0, _LEVELS)
    level = _level(index)
    sums = tl.zeros([_LEVELS, CHUNK], tl.float32)
    for start in tl.static_range(0, COLUMNS, CHUNK):
        token = part * COLUMNS + start + tl.arange(0, CHUNK)
        scaled = load_scaled(logits_ptr + row * row_stride, token, vocab_size, largest, temperature)
        measure = tl.where(is_counted, (token < vocab_size).to(tl.float32), tl.exp(scaled))
        # So written, it is one predicated addition.
        sums = tl.where(scaled[None, :] >= level[:, None], sums + measure[None, :], sums)
    tl.store(sums_ptr + (row * num_parts + part) * _LEVELS + index, tl.sum(sums, axis=1))


@triton.jit
def _bracket_kernel(
    best_ptr, temperatures_ptr, top_k_ptr, top_p_ptr, sums_ptr, brackets_ptr, vocab_size, num_parts,
    PARTS: tl.constexpr,
):  # fmt: skip
    """Where a row's list begins and ends (scaled logits; the end is not in it), the weight above its end, and
    the count or the weight that is wanted in all."""
    row = tl.program_id(0).to(tl.int64)
    top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
    temperature = tl.load(temperatures_ptr + row)
    if not _is_searched(top_k, top_p, temperature, vocab_size):
        return
    is_counted = _is_counted(top_k, vocab_size)
    begin, end, above = float("-inf"), float("inf"), 0.0
    wanted = top_k.to(tl.float32)
    if is_counted & (top_k <= num_parts):
        largest = largest_of_row(best_ptr, row, num_parts, PARTS)
        begin = scaled_of(kth_best(best_ptr, row, num_parts, top_k, PARTS), largest, temperature)
    else:
        index = tl.arange(0, _LEVELS)
        part = tl.arange(0, PARTS)
        at = (row * num_parts + part[:, None]) * _LEVELS + index[None, :]
        sums = tl.sum(tl.load(sums_ptr + at, mask=(part < num_parts)[:, None], other=0.0), axis=0)
        if not is_counted:
            wanted = tl.sum(tl.where(index == _LEVELS - 1, sums, 0.0), axis=0) * top_p
        found = tl.minimum(tl.sum((sums < wanted).to(tl.int32), axis=0), _LEVELS - 1)
        begin = tl.sum(tl.where(index == found, _level(index), 0.0), axis=0)
        if (found > 0) & (not is_counted):
            end = tl.sum(tl.where(index == found - 1, _level(index), 0.0), axis=0)
            above = tl.sum(tl.where(index == found - 1, sums, 0.0), axis=0)
    tl.store(brackets_ptr + 4 * row, begin)
    tl.store(brackets_ptr + 4 * row + 1, end)
    tl.store(brackets_ptr + 4 * row + 2, above)
    tl.store(brackets_ptr + 4 * row + 3, wanted)


@triton.jit
def _list_kernel(
    logits_ptr, best_ptr, temperatures_ptr, top_k_ptr, top_p_ptr, brackets_ptr, entries_ptr, lengths_ptr,
    vocab_size, row_stride, num_parts, PARTS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A part's scaled logits between begin and end, in the order of their tokens, and how many there are.

    Of a row with top-k, a part needs no more than its own k largest: it begins higher where its list would
    not fit.
    """
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    temperature = tl.load(temperatures_ptr + row)
    top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
    if not _is_searched(top_k, top_p, temperature, vocab_size):
        return
    begin, end = tl.load(brackets_ptr + 4 * row), tl.load(brackets_ptr + 4 * row + 1)
    largest = largest_of_row(best_ptr, row, num_parts, PARTS)
    highest = scaled_of(tl.load(best_ptr + row * num_parts + part), largest, temperature)
    if not (highest >= begin):
        tl.store(lengths_ptr + row * num_parts + part, 0)
        return
    token = part * COLUMNS + tl.arange(0, COLUMNS)
    scaled = load_scaled(logits_ptr + row * row_stride, token, vocab_size, largest, temperature)
    is_listed = (scaled >= begin) & (scaled < end) & (token < vocab_size)
    length = tl.sum(is_listed.to(tl.int32), axis=0)
    if (length > _CAPACITY) & _is_counted(top_k, vocab_size):
        for _ in range(_HALVINGS):
            middle = 0.5 * (begin + highest)
            num_above = tl.sum((scaled >= middle).to(tl.int32), axis=0)
            is_enough = num_above >= top_k
            begin, highest = tl.where(is_enough, middle, begin), tl.where(is_enough, highest, middle)
        is_listed = is_listed & (scaled >= begin)
        length = tl.sum(is_listed.to(tl.int32), axis=0)
    place = tl.cumsum(is_listed.to(tl.int32), axis=0) - 1
    at = (row * num_parts + part) * _CAPACITY + place
    tl.store(entries_ptr + at, scaled, mask=is_listed & (place < _CAPACITY))
    tl.store(lengths_ptr + row * num_parts + part, length)


@triton.jit
def _search_kernel(
    logits_ptr, best_ptr, temperatures_ptr, top_k_ptr, top_p_ptr, min_p_ptr, brackets_ptr, entries_ptr,
    lengths_ptr, thresholds_ptr, vocab_size, row_stride, num_parts,
    PARTS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The least scaled logit that a row keeps."""
    row = tl.program_id(0).to(tl.int64)
    temperature = tl.load(temperatures_ptr + row)
    top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
    least = tl.where(temperature > 0.0, least_scaled_of(tl.load(min_p_ptr + row)), 0.0)
    if not _is_searched(top_k, top_p, temperature, vocab_size):
        tl.store(thresholds_ptr + row, least)
        return
    part = tl.arange(0, PARTS)
    lengths = tl.load(lengths_ptr + row * num_parts + part, mask=part < num_parts, other=0)
    longest = tl.max(lengths, axis=0)
    if longest > _CAPACITY:
        largest = largest_of_row(best_ptr, row, num_parts, PARTS)
        rank = filter_rank(
            logits_ptr + row * row_stride, vocab_size, largest, temperature, top_k, top_p, COLUMNS
        )
    else:
        # The sums over the list may be rounded to a little less than those that its beginning was chosen by.
        rank = rank_of(tl.load(brackets_ptr + 4 * row))
        above, wanted = tl.load(brackets_ptr + 4 * row + 2), tl.load(brackets_ptr + 4 * row + 3)
        if _is_counted(top_k, vocab_size):
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
    tl.store(thresholds_ptr + row, tl.maximum(scaled_of_rank(rank), least))


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
