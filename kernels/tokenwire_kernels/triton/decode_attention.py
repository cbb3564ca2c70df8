"""Decode attention: the work of all sequences in equal shares, whatever their lengths.

All pasts are cut into tiles of keys and laid out in one line: sequence after sequence, each key head after
the other, tile after tile. A fixed number of programs, a few for each multiprocessor, take equal runs of that
line (stream-K, Osama et al., 2023; for attention, Lean Attention, Sanovar et al., 2024). So one long sequence
keeps the whole GPU busy, and beside short ones it delays nobody. A run that holds a whole past of a head
writes its result; one that was cut writes a part: every program has at most two, the head's that it
continues and the head's that it leaves unfinished. The parts of a past are then combined in order.

Where a run begins follows from the context lengths, on the device, once per step for all layers: the grids
depend on the GPU alone, so that a CUDA graph serves steps of any lengths.

Bytes: every visible key and value once, 2 * context * kv_heads * head_dim * itemsize a sequence; parts are at
most 2 * programs * group * (head_dim + 1) * 4, written and read once (1.1 MB for Llama 3.1 8B on an H200).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwire_kernels.batch import AttentionBatch, LayerCache
from tokenwire_kernels.triton.attend import attend, finish, nothing_seen
from tokenwire_kernels.triton.dependent import launch_options, wait_for_kernels_before
from tokenwire_kernels.triton.target import gpu_of

_TILE_ELEMENTS = 8 * 1024
"""Of keys, and again of values, that one stage of a program's pipeline loads."""
_PROGRAMS_PER_PROCESSOR = 3
"""As many as fit beside each other: each has one stage under way while it computes another, and starts anew
at every head, so that several are needed to cover the memory's latency (about 32 kB a multiprocessor)."""
_PARTS = 16
"""Parts that a combining program holds at a time."""


def decode_attention(
    q: Tensor,
    cache: LayerCache,
    batch: AttentionBatch,
    out: Tensor,
    scale: float,
    window: int,
    soft_cap: float,
    sinks: Tensor | None,
) -> None:
    """Write the rows of `out` that belong to the batch's decodes. See `reference.attention.paged_attention`.

    A decode whose context is 0, as padding is, reads nothing, and its row is 0.
    """
    num_heads, head_dim = q.shape[1:]
    num_kv_heads, block_size = cache.keys.shape[1:3]
    group, capability = num_heads // num_kv_heads, gpu_of(q.device).capability
    tile = decode_tile(head_dim, group, q.dtype, cache.keys.dtype, capability)
    schedule = _scheduled(q, cache, batch, window, tile.keys)
    shape = {
        "GROUP": group, "NUM_KV_HEADS": num_kv_heads,
        "HEAD_DIM": head_dim, "COLUMNS": triton.next_power_of_2(head_dim),
    }  # fmt: skip
    line = (schedule.tile_starts, schedule.first_seqs, batch.num_decodes)
    rest = (batch.query_starts, out, schedule.parts, schedule.part_weights, sinks, cache.value_scales)
    _decode_kernel[(schedule.num_programs,)](
        q, cache.keys, cache.values, cache.key_scales, batch.block_tables, batch.context_lens,
        *line, *rest, scale, soft_cap, q.stride(0), batch.block_tables.stride(0),
        **shape, WINDOW=window, CAPPED=soft_cap > 0.0, BLOCK_SIZE=block_size,
        PROGRAMS=schedule.num_programs, ROWS=tile.rows, KEYS=tile.keys,
        num_warps=tile.warps, num_stages=tile.stages, **launch_options(q.device),
    )  # fmt: skip
    _combine_kernel[(schedule.num_programs - 1, shape["GROUP"])](
        *line, *rest, **shape, PROGRAMS=schedule.num_programs, PARTS=_PARTS,
        num_warps=4, **launch_options(q.device),
    )  # fmt: skip


@dataclass(slots=True, frozen=True)
class Tile:
    """How much one program holds at a time."""

    rows: int
    """Query rows (query tokens times grouped heads); a matrix product needs at least 16."""
    keys: int
    warps: int
    stages: int


def decode_tile(
    head_dim: int, group: int, dtype: torch.dtype, cache_dtype: torch.dtype, capability: int
) -> Tile:
    """Few rows: what counts is how many bytes of keys and values are under way.

    A cache of another format is converted on its way, in registers: fewer keys at a time. Of each the largest
    tile that ptxas compiles without a spill for every generation.
    """
    columns = triton.next_power_of_2(head_dim)
    rows = max(16, triton.next_power_of_2(group))
    is_converted = dtype != cache_dtype
    if dtype.itemsize == 4:  # a float32 product is three of the tensor cores' TF32 products: many registers
        if columns <= 64 and not is_converted:
            return Tile(rows=rows, keys=32, warps=4, stages=2)
        return Tile(rows=rows, keys=16, warps=8, stages=2 if columns <= 128 else 1)
    keys = _TILE_ELEMENTS // columns
    if dtype == torch.bfloat16 and cache_dtype.itemsize == 1 and columns <= 128:
        return Tile(rows=rows, keys=keys, warps=4, stages=4 if capability < 100 else 3)
    if cache_dtype.itemsize == 1 and columns <= 128:
        return Tile(rows=rows, keys=64, warps=4, stages=2)
    if is_converted:
        return Tile(rows=rows, keys=keys // 2, warps=4, stages=3 if cache_dtype.itemsize == 4 else 4)
    return Tile(rows=rows, keys=keys, warps=4, stages=3)


@dataclass(slots=True, frozen=True)
class _Schedule:
    """Which program takes which tiles, and where it leaves its parts. On the device."""

    num_programs: int
    tile_starts: Tensor
    """int32 [num_decodes + 1]: tiles of one key head, of all sequences before."""
    first_seqs: Tensor
    """int32 [num_programs]: the sequence that the program's first tile belongs to."""
    parts: Tensor
    """float32 [num_programs, 2, group, head_dim]: of the past that it continues, and that it leaves."""
    part_weights: Tensor
    """float32 [num_programs, 2, group]: log2 of the part's share in the softmax's denominator."""


def _scheduled(q: Tensor, cache: LayerCache, batch: AttentionBatch, window: int, keys: int) -> _Schedule:
    """The step's schedule for layers of this shape: made by the first of them."""
    num_heads, head_dim = q.shape[1:]
    num_kv_heads = cache.keys.shape[1]
    key = ("decode", window, keys, num_heads, num_kv_heads, head_dim)
    schedule: _Schedule | None = batch.memo.get(key)
    if schedule is None:
        programs = _PROGRAMS_PER_PROCESSOR * gpu_of(q.device).processors
        group = num_heads // num_kv_heads
        schedule = batch.memo[key] = _Schedule(
            programs,
            q.new_empty(batch.num_decodes + 1, dtype=torch.int32),
            q.new_empty(programs, dtype=torch.int32),
            q.new_empty((programs, 2, group, head_dim), dtype=torch.float32),
            q.new_empty((programs, 2, group), dtype=torch.float32),
        )
        _schedule_kernel[(1,)](
            batch.query_starts, batch.context_lens, schedule.tile_starts, schedule.first_seqs,
            batch.num_decodes, WINDOW=window, KEYS=keys, NUM_KV_HEADS=num_kv_heads, PROGRAMS=programs,
            SEQS=triton.next_power_of_2(batch.num_decodes), num_warps=4,
        )  # fmt: skip
    return schedule


@triton.jit(do_not_specialize=["num_seqs"])
def _schedule_kernel(
    query_starts_ptr, context_lens_ptr, tile_starts_ptr, first_seqs_ptr, num_seqs,
    WINDOW: tl.constexpr, KEYS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, PROGRAMS: tl.constexpr,
    SEQS: tl.constexpr,
):  # fmt: skip
    """Lay the tiles out in one line, and find the sequence that each program begins in."""
    seq = tl.arange(0, SEQS)
    seen = tl.load(context_lens_ptr + seq, mask=seq < num_seqs, other=0)
    if WINDOW > 0:
        seen = tl.minimum(seen, WINDOW)
    starts = tl.load(query_starts_ptr + seq, mask=seq < num_seqs, other=0)
    has_query = tl.load(query_starts_ptr + 1 + seq, mask=seq < num_seqs, other=0) > starts
    # A query without a past has a tile all the same: it is what writes its zeros.
    ends = tl.cumsum(tl.where(has_query, tl.maximum(tl.cdiv(seen, KEYS), 1), 0), axis=0)
    tl.store(tile_starts_ptr, 0)
    tl.store(tile_starts_ptr + 1 + seq, ends, mask=seq < num_seqs)
    run = tl.cdiv(tl.max(ends, axis=0) * NUM_KV_HEADS, PROGRAMS)
    for start in range(0, PROGRAMS, 16):
        program = start + tl.arange(0, 16)
        before = (ends * NUM_KV_HEADS)[None, :] <= (program * run)[:, None]
        first_seq = tl.sum((before & (seq < num_seqs)[None, :]).to(tl.int32), axis=1)
        tl.store(first_seqs_ptr + program, tl.minimum(first_seq, num_seqs - 1), mask=program < PROGRAMS)


@triton.jit(do_not_specialize=["num_seqs", "table_stride"])
def _decode_kernel(
    q_ptr, key_cache_ptr, value_cache_ptr, key_scales_ptr, block_tables_ptr, context_lens_ptr,
    tile_starts_ptr, first_seqs_ptr, num_seqs,
    query_starts_ptr, out_ptr, parts_ptr, part_weights_ptr, sinks_ptr, value_scales_ptr,
    scale, soft_cap, q_stride, table_stride,
    GROUP: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr,
    WINDOW: tl.constexpr, CAPPED: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    PROGRAMS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """One run of tiles: the end of a past, whole pasts, and the beginning of another."""
    wait_for_kernels_before(DEPENDENT)
    program = tl.program_id(0)
    seq = tl.load(first_seqs_ptr + program)
    num_tiles = tl.load(tile_starts_ptr + num_seqs) * NUM_KV_HEADS
    run = tl.cdiv(num_tiles, PROGRAMS)
    tile = program * run
    stop = tl.minimum(tile + run, num_tiles)
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    mask = (row < GROUP)[:, None] & (column < HEAD_DIM)[None, :]

    while tile < stop:
        seq_start = tl.load(tile_starts_ptr + seq)
        seq_end = tl.load(tile_starts_ptr + seq + 1)
        seq_tiles = seq_end - seq_start
        kv_head = (tile - seq_start * NUM_KV_HEADS) // seq_tiles
        first_tile = tile - seq_start * NUM_KV_HEADS - kv_head * seq_tiles
        last_tile = tl.minimum(seq_tiles, first_tile + stop - tile)

        context = tl.load(context_lens_ptr + seq)
        token = tl.load(query_starts_ptr + seq).to(tl.int64)
        oldest = 0
        if WINDOW > 0:
            oldest = tl.maximum(context - WINDOW, 0)
        head = kv_head * GROUP + row
        q_at = token * q_stride + head[:, None] * HEAD_DIM + column[None, :]
        q = tl.load(q_ptr + q_at, mask=mask, other=0.0)
        accumulator, largest, total = attend(
            q, row, oldest + first_tile * KEYS, tl.minimum(oldest + last_tile * KEYS, context), kv_head,
            nothing_seen(ROWS, COLUMNS),
            key_cache_ptr, value_cache_ptr, None, None, key_scales_ptr,
            block_tables_ptr + seq.to(tl.int64) * table_stride, scale, soft_cap,
            False, 0, CAPPED, NUM_KV_HEADS, HEAD_DIM, COLUMNS, BLOCK_SIZE, KEYS,
        )  # fmt: skip

        if (first_tile == 0) & (last_tile == seq_tiles):
            attended = finish(
                accumulator, largest, total, sinks_ptr, head, row < GROUP, value_scales_ptr, kv_head
            )
            at = token * (NUM_KV_HEADS * GROUP) + head
            tl.store(
                out_ptr + at[:, None] * HEAD_DIM + column[None, :],
                attended.to(out_ptr.dtype.element_ty), mask=mask,
            )  # fmt: skip
        else:
            leaves = (first_tile == 0).to(tl.int32)
            part_at = (program * 2 + leaves) * GROUP + row
            divisor = tl.where(total > 0.0, total, 1.0)
            tl.store(
                parts_ptr + part_at[:, None] * HEAD_DIM + column[None, :],
                accumulator / divisor[:, None],
                mask=mask,
            )
            weight = tl.where(total > 0.0, largest + tl.log2(divisor), float("-inf"))
            tl.store(part_weights_ptr + part_at, weight, mask=row < GROUP)
        tile += last_tile - first_tile
        seq += (tile == seq_end * NUM_KV_HEADS).to(tl.int32)


@triton.jit(do_not_specialize=["num_seqs"])
def _combine_kernel(
    tile_starts_ptr, first_seqs_ptr, num_seqs,
    query_starts_ptr, out_ptr, parts_ptr, part_weights_ptr, sinks_ptr, value_scales_ptr,
    GROUP: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr,
    PROGRAMS: tl.constexpr, PARTS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """The past that was cut first between a program and the next, for one head of a group: its parts, each
    in proportion to its share of the softmax's denominator."""
    wait_for_kernels_before(DEPENDENT)
    program, member = tl.program_id(0), tl.program_id(1)
    num_tiles = tl.load(tile_starts_ptr + num_seqs) * NUM_KV_HEADS
    run = tl.cdiv(num_tiles, PROGRAMS)
    cut = (program + 1) * run
    if cut >= num_tiles:
        return
    seq = tl.load(first_seqs_ptr + program + 1)
    seq_start = tl.load(tile_starts_ptr + seq)
    seq_tiles = tl.load(tile_starts_ptr + seq + 1) - seq_start
    kv_head = (cut - seq_start * NUM_KV_HEADS) // seq_tiles
    begin = seq_start * NUM_KV_HEADS + kv_head * seq_tiles
    if (begin == cut) | (begin // run != program):
        return  # cut between two pasts; or a part further in, which another program combines

    last = (begin + seq_tiles - 1) // run
    column = tl.arange(0, COLUMNS)
    accumulator = tl.zeros([COLUMNS], tl.float32)
    largest = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    for start in range(program, last + 1, PARTS):
        part = start + tl.arange(0, PARTS)
        at = (part * 2 + (part == program).to(tl.int32)) * GROUP + member
        weight = tl.load(part_weights_ptr + at, mask=part <= last, other=float("-inf"))
        attended = tl.load(
            parts_ptr + at[:, None] * HEAD_DIM + column[None, :],
            mask=(part <= last)[:, None] & (column < HEAD_DIM)[None, :], other=0.0,
        )  # fmt: skip
        new_largest = tl.maximum(largest, tl.max(weight, axis=0))
        share = tl.exp2(weight - new_largest)
        shrink = tl.exp2(largest - new_largest)
        accumulator = accumulator * shrink + tl.sum(attended * share[:, None], axis=0)
        total = total * shrink + tl.sum(share, axis=0)
        largest = new_largest
    head = kv_head * GROUP + member + tl.arange(0, 1)
    attended = finish(
        accumulator[None, :], largest, total, sinks_ptr, head, head >= 0, value_scales_ptr, kv_head
    )
    token = tl.load(query_starts_ptr + seq).to(tl.int64)
    at = token * (NUM_KV_HEADS * GROUP) + head
    tl.store(
        out_ptr + at[:, None] * HEAD_DIM + column[None, :],
        attended.to(out_ptr.dtype.element_ty), mask=(column < HEAD_DIM)[None, :],
    )  # fmt: skip
