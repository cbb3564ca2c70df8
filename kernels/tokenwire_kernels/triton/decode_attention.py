"""Decode attention: the work of all sequences in equal shares, whatever their lengths.

All pasts are cut into tiles of keys and laid out in one line: sequence after sequence, each key head after
the other, tile after tile. A fixed number of programs, a few for each multiprocessor, take equal runs of that
line (stream-K, Osama et al., 2023; for attention, Lean Attention, Sanovar et al., 2024). So one long sequence
keeps the whole GPU busy, and beside short ones it delays nobody. A run that holds a whole past of a head
writes its result; one that was cut writes a part: every program has at most two, the head's that it
continues and the head's that it leaves unfinished. Whichever program finishes a past's last part combines
all of them, always in their order.

Where a run begins follows from the context lengths, on the device, once per step for all layers: the grids
depend on the GPU alone, so that a CUDA graph serves steps of any lengths.

Bytes: every visible key and value once, 2 * context * kv_heads * head_dim * itemsize a sequence; parts are at
most 2 * programs * group * (head_dim + 2) * 4, written and read once (1.6 MB for Llama 3.1 8B on an H200).
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
from tokenwire_kernels.triton.attend import as_float16, attend, finish, nothing_seen
from tokenwire_kernels.triton.dependent import launch_options, wait_for_kernels_before
from tokenwire_kernels.triton.sizes import ceil_div, next_power_of_2
from tokenwire_kernels.triton.target import gpu_of

_TILE_ELEMENTS = 8 * 1024
"""Of keys, and again of values, that one stage of a program's pipeline loads."""
_PROGRAMS_PER_PROCESSOR = 3
"""As many as fit beside each other: each has one stage under way while it computes another, and starts anew
at every head, so that several are needed to cover the memory's latency (about 32 kB a multiprocessor)."""
_SCHEDULED = 16
"""Programs whose runs one program of the schedule finds."""
_COMBINED_ELEMENTS = 4 * 1024
"""Of parts that a program holds at a time."""


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
    group, columns = num_heads // num_kv_heads, next_power_of_2(head_dim)
    tile = decode_tile(head_dim, group, q.dtype, cache.keys.dtype, gpu_of(q.device).capability)
    schedule = _scheduled(q, cache, batch, window, tile.keys)
    members = min(4, next_power_of_2(group))
    _decode_kernel[(schedule.num_programs,)](
        q, cache.keys, cache.values, cache.key_scales, cache.value_scales, sinks, batch.block_tables,
        batch.context_lens, batch.query_starts, schedule.tile_starts, schedule.first_seqs, batch.num_decodes,
        schedule.parts, schedule.part_weights, schedule.arrivals, out,
        scale, soft_cap, q.stride(0), batch.block_tables.stride(0),
        GROUP=group, NUM_KV_HEADS=num_kv_heads, HEAD_DIM=head_dim, COLUMNS=columns,
        WINDOW=window, CAPPED=soft_cap > 0.0, BLOCK_SIZE=block_size, PROGRAMS=schedule.num_programs,
        ROWS=tile.rows, KEYS=tile.keys, MEMBERS=members,
        PARTS=min(16, _COMBINED_ELEMENTS // (members * columns)),
        num_warps=tile.warps, num_stages=tile.stages, **launch_options(q.device),
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
    tile that ptxas compiles without a spill for every generation, or, of narrow float32 heads, for its own.
    """
    columns = next_power_of_2(head_dim)
    rows = max(16, next_power_of_2(group))
    is_converted = dtype != cache_dtype
    if dtype.itemsize == 4:  # a float32 product is three of the tensor cores' TF32 products: many registers
        if columns <= 64 and not is_converted and capability < 100:
            return Tile(rows=rows, keys=32, warps=4, stages=2)
        return Tile(rows=rows, keys=16, warps=8, stages=1 if columns > 128 and is_converted else 2)
    keys = _TILE_ELEMENTS // columns
    if cache_dtype.itemsize == 1 and columns <= 128:
        return Tile(rows=rows, keys=64, warps=4, stages=4 if columns == 128 else 5)
    if is_converted:
        warps = 8 if columns > 128 and capability >= 100 else 4
        return Tile(rows=rows, keys=keys // 2, warps=warps, stages=3 if cache_dtype.itemsize == 4 else 4)
    if columns <= 64:  # 128 keys at a time leave no registers for a third program
        return Tile(rows=rows, keys=64, warps=4, stages=5)
    return Tile(rows=rows, keys=keys, warps=4, stages=3)


@dataclass(slots=True, frozen=True)
class _Schedule:
    """Which program takes which tiles, and where it leaves its parts. On the device."""

    num_programs: int
    tile_starts: Tensor
    """int32 [num_decodes + 1]: tiles of one key head, of all sequences before."""
    first_seqs: Tensor
    """int32 [5, num_programs]: the sequence that the program's first tile belongs to; where its tiles begin
    and end, as in `tile_starts`; its context; its row of queries."""
    parts: Tensor
    """float32 [num_programs, 2, group, head_dim]: weighted sums of values, of the past that the program
    continues, and of the one that it leaves."""
    part_weights: Tensor
    """float32 [num_programs, 2, 2, group]: a part's largest score, in units of log 2, and sum of weights."""
    arrivals: Tensor
    """int32 [num_programs]: parts written of the past that the program leaves; 0 between layers."""


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
            q.new_empty((5, programs), dtype=torch.int32),
            q.new_empty((programs, 2, group, head_dim), dtype=torch.float32),
            q.new_empty((programs, 2, 2, group), dtype=torch.float32),
            q.new_empty(programs, dtype=torch.int32),
        )
        _schedule_kernel[(ceil_div(programs, _SCHEDULED),)](
            batch.context_lens, batch.query_starts, batch.num_decodes,
            schedule.tile_starts, schedule.first_seqs, schedule.arrivals,
            WINDOW=window, KEYS=keys, NUM_KV_HEADS=num_kv_heads, PROGRAMS=programs, COUNT=_SCHEDULED,
            SEQS=next_power_of_2(batch.num_decodes), num_warps=4,
        )  # fmt: skip
    return schedule


@triton.jit(do_not_specialize=["num_seqs"])
def _schedule_kernel(
    context_lens_ptr, query_starts_ptr, num_seqs, tile_starts_ptr, first_seqs_ptr, arrivals_ptr,
    WINDOW: tl.constexpr, KEYS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, PROGRAMS: tl.constexpr,
    COUNT: tl.constexpr, SEQS: tl.constexpr,
):  # fmt: skip
    """Lay the tiles out in one line, and find the sequences that COUNT programs begin in."""
    seq = tl.arange(0, SEQS)
    is_seq = seq < num_seqs
    seen = tl.load(context_lens_ptr + seq, mask=is_seq, other=0)
    if WINDOW > 0:
        seen = tl.minimum(seen, WINDOW)
    starts = tl.load(query_starts_ptr + seq, mask=is_seq, other=0)
    has_query = tl.load(query_starts_ptr + 1 + seq, mask=is_seq, other=0) > starts
    # A query without a past has a tile all the same: it is what writes its zeros.
    ends = tl.cumsum(tl.where(has_query, tl.maximum(tl.cdiv(seen, KEYS), 1), 0), axis=0)
    num_tiles = tl.max(ends, axis=0)
    if tl.program_id(0) == 0:
        tl.store(tile_starts_ptr, 0)
        tl.store(tile_starts_ptr + 1 + seq, ends, mask=is_seq)

    program = tl.program_id(0) * COUNT + tl.arange(0, COUNT)
    is_program = program < PROGRAMS
    tile = program * tl.cdiv(num_tiles * NUM_KV_HEADS, PROGRAMS)
    is_before = is_seq[None, :] & ((ends * NUM_KV_HEADS)[None, :] <= tile[:, None])
    first_seq = tl.minimum(tl.sum(is_before.to(tl.int32), axis=1), num_seqs - 1)
    first_ptr = first_seqs_ptr + program
    tl.store(first_ptr, first_seq, mask=is_program)
    start = tl.max(tl.where(is_before, ends[None, :], 0), axis=1)
    tl.store(first_ptr + PROGRAMS, start, mask=is_program)
    end = tl.min(tl.where(is_before, num_tiles, ends[None, :]), axis=1)
    tl.store(first_ptr + 2 * PROGRAMS, end, mask=is_program)
    tl.store(first_ptr + 3 * PROGRAMS, tl.load(context_lens_ptr + first_seq), mask=is_program)
    tl.store(first_ptr + 4 * PROGRAMS, tl.load(query_starts_ptr + first_seq), mask=is_program)
    tl.store(arrivals_ptr + program, 0, mask=is_program)


@triton.jit(do_not_specialize=["num_seqs", "table_stride"])
def _decode_kernel(
    q_ptr, key_cache_ptr, value_cache_ptr, key_scales_ptr, value_scales_ptr, sinks_ptr, block_tables_ptr,
    context_lens_ptr, query_starts_ptr, tile_starts_ptr, first_seqs_ptr, num_seqs,
    parts_ptr, part_weights_ptr, arrivals_ptr, out_ptr, scale, soft_cap, q_stride, table_stride,
    GROUP: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr,
    WINDOW: tl.constexpr, CAPPED: tl.constexpr, BLOCK_SIZE: tl.constexpr, PROGRAMS: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, MEMBERS: tl.constexpr, PARTS: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """One run of tiles: the end of a past, whole pasts, and the beginning of another."""
    wait_for_kernels_before(DEPENDENT)
    program = tl.program_id(0)
    num_tiles = tl.load(tile_starts_ptr + num_seqs) * NUM_KV_HEADS
    run = tl.cdiv(num_tiles, PROGRAMS)
    tile = program * run
    stop = tl.minimum(tile + run, num_tiles)
    seq = tl.load(first_seqs_ptr + program)
    seq_start = tl.load(first_seqs_ptr + PROGRAMS + program)
    seq_end = tl.load(first_seqs_ptr + 2 * PROGRAMS + program)
    context = tl.load(first_seqs_ptr + 3 * PROGRAMS + program)
    token = tl.load(first_seqs_ptr + 4 * PROGRAMS + program)
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    mask = (row < GROUP)[:, None] & (column < HEAD_DIM)[None, :]
    IS_BYTES: tl.constexpr = key_cache_ptr.dtype.element_ty.primitive_bitwidth == 8

    while tile < stop:
        # On its way while this past is walked.
        next_seq = tl.minimum(seq + 1, num_seqs - 1)
        next_end = tl.load(tile_starts_ptr + next_seq + 1)
        next_context = tl.load(context_lens_ptr + next_seq)
        next_token = tl.load(query_starts_ptr + next_seq)

        seq_tiles = seq_end - seq_start
        kv_head = (tile - seq_start * NUM_KV_HEADS) // seq_tiles
        begin = seq_start * NUM_KV_HEADS + kv_head * seq_tiles
        first_tile = tile - begin
        last_tile = tl.minimum(seq_tiles, stop - begin)
        oldest = 0
        if WINDOW > 0:
            oldest = tl.maximum(context - WINDOW, 0)
        head = kv_head * GROUP + row
        q_at = token.to(tl.int64) * q_stride + head[:, None] * HEAD_DIM + column[None, :]
        q = tl.load(q_ptr + q_at, mask=mask, other=0.0)
        unit = scale
        if IS_BYTES and q.dtype == tl.bfloat16:  # GPUs convert fp8 to float16, exactly, and from there alone
            q, unit = as_float16(q, scale)
        accumulator, largest, total = attend(
            q, row, oldest + first_tile * KEYS, tl.minimum(oldest + last_tile * KEYS, context), kv_head,
            nothing_seen(ROWS, COLUMNS),
            key_cache_ptr, value_cache_ptr, key_scales_ptr,
            block_tables_ptr + seq.to(tl.int64) * table_stride, unit, soft_cap,
            False, False, 0, CAPPED, NUM_KV_HEADS, HEAD_DIM, COLUMNS, BLOCK_SIZE, KEYS,
            WINDOW == 0, IS_BYTES and q.dtype == tl.float16,
        )  # fmt: skip

        if last_tile - first_tile == seq_tiles:
            _write(
                accumulator, largest, total, token, kv_head, row, out_ptr, sinks_ptr, value_scales_ptr,
                GROUP, NUM_KV_HEADS, HEAD_DIM, COLUMNS,
            )  # fmt: skip
        else:
            part = program * 2 + (first_tile == 0).to(tl.int32)
            part_at = (part * GROUP + row)[:, None] * HEAD_DIM + column[None, :]
            tl.store(parts_ptr + part_at, accumulator, mask=mask)
            weight_ptr = part_weights_ptr + part * 2 * GROUP + row
            tl.store(weight_ptr, largest, mask=row < GROUP)
            tl.store(weight_ptr + GROUP, total, mask=row < GROUP)
            first, last = begin // run, (begin + seq_tiles - 1) // run
            tl.debug_barrier()  # all of the part is written before it is counted
            if tl.atomic_add(arrivals_ptr + first, 1, sem="acq_rel") == last - first:
                tl.store(arrivals_ptr + first, 0)
                for member in range(0, GROUP, MEMBERS):
                    _combine(
                        parts_ptr, part_weights_ptr, first, last, token, kv_head,
                        member + tl.arange(0, MEMBERS), out_ptr, sinks_ptr, value_scales_ptr,
                        GROUP, NUM_KV_HEADS, HEAD_DIM, COLUMNS, MEMBERS, PARTS,
                    )  # fmt: skip
        tile = begin + last_tile
        if last_tile == seq_tiles and kv_head == NUM_KV_HEADS - 1:
            seq, seq_start, seq_end, context, token = next_seq, seq_end, next_end, next_context, next_token


@triton.jit
def _combine(
    parts_ptr, part_weights_ptr, first, last, token, kv_head, member, out_ptr, sinks_ptr, value_scales_ptr,
    GROUP: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr,
    MEMBERS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Write what some heads of a group attend to, from their past's parts: one of each program from `first`,
    which leaves it, to `last`."""
    column = tl.arange(0, COLUMNS)
    accumulator, largest, total = nothing_seen(MEMBERS, COLUMNS)
    for start in range(first, last + 1, PARTS):
        program = start + tl.arange(0, PARTS)
        part = program * 2 + (program == first).to(tl.int32)
        is_part = (program <= last)[:, None] & (member < GROUP)[None, :]
        weight_ptr = part_weights_ptr + (part * 2 * GROUP)[:, None] + member[None, :]
        part_largest = tl.load(weight_ptr, mask=is_part, other=float("-inf"), cache_modifier=".cg")
        part_total = tl.load(weight_ptr + GROUP, mask=is_part, other=0.0, cache_modifier=".cg")
        part_at = ((part * GROUP)[:, None] + member[None, :])[:, :, None] * HEAD_DIM + column[None, None, :]
        is_element = is_part[:, :, None] & (column < HEAD_DIM)[None, None, :]
        part_sum = tl.load(parts_ptr + part_at, mask=is_element, other=0.0, cache_modifier=".cg")

        new_largest = tl.maximum(largest, tl.max(part_largest, axis=0))
        reference = tl.where(new_largest > float("-inf"), new_largest, 0.0)
        share, shrink = tl.exp2(part_largest - reference[None, :]), tl.exp2(largest - reference)
        total = total * shrink + tl.sum(part_total * share, axis=0)
        accumulator = accumulator * shrink[:, None] + tl.sum(part_sum * share[:, :, None], axis=0)
        largest = new_largest
    _write(
        accumulator, largest, total, token, kv_head, member, out_ptr, sinks_ptr, value_scales_ptr,
        GROUP, NUM_KV_HEADS, HEAD_DIM, COLUMNS,
    )  # fmt: skip


@triton.jit
def _write(
    accumulator, largest, total, token, kv_head, member, out_ptr, sinks_ptr, value_scales_ptr,
    GROUP: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """What some heads of a group attend to, once the whole past is in."""
    column = tl.arange(0, COLUMNS)
    head = kv_head * GROUP + member
    is_head = member < GROUP
    attended = finish(accumulator, largest, total, sinks_ptr, head, is_head, value_scales_ptr, kv_head)
    at = token.to(tl.int64) * (NUM_KV_HEADS * GROUP) + head
    tl.store(
        out_ptr + at[:, None] * HEAD_DIM + column[None, :], attended.to(out_ptr.dtype.element_ty),
        mask=is_head[:, None] & (column < HEAD_DIM)[None, :],
    )  # fmt: skip
