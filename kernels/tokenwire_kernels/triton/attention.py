"""Paged attention for a flat mixed batch: one launch for the decodes, one for the prefill chunks.

Both walk a sequence's past in tiles of keys with the running softmax of FlashAttention (Dao et al.,
2022); the query heads that share a key head are rows of the same tile, so each key is read once for all
of them. A long decode is split along its past into parts that run in parallel and are then combined
(Flash-Decoding). Which sequence a tile of queries belongs to is searched for on the device: the host
launches the most tiles that there can be, and those without work leave at once.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwire_kernels.batch import AttentionBatch, LayerCache

_MAX_SPLITS = 64
_SPLIT_AT_LEAST = 256
"""Keys that make a part of a split decode worth combining."""


def paged_attention(
    q: Tensor,
    cache: LayerCache,
    batch: AttentionBatch,
    scale: float,
    window: int = 0,
    soft_cap: float = 0.0,
    sinks: Tensor | None = None,
) -> Tensor:
    """See `reference.attention.paged_attention`. The caches are contiguous; each head of `q` is."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads, block_size = cache.keys.shape[1:3]
    group = num_heads // num_kv_heads
    num_decodes = batch.num_decodes
    num_chunks = batch.context_lens.shape[0] - num_decodes
    columns = triton.next_power_of_2(head_dim)
    shape = {
        "WINDOW": window, "CAPPED": soft_cap > 0.0, "GROUP": group, "NUM_KV_HEADS": num_kv_heads,
        "HEAD_DIM": head_dim, "COLUMNS": columns, "BLOCK_SIZE": block_size,
    }  # fmt: skip
    inputs = (q, cache.keys, cache.values, batch.block_tables, batch.query_starts, batch.context_lens)
    scalars = (scale, soft_cap, q.stride(0), batch.block_tables.stride(0))

    if num_decodes:
        tile = decode_tile(head_dim, group, q.dtype.itemsize)
        seen = min(batch.max_context_len, window) if window else batch.max_context_len
        splits = num_splits(num_decodes * num_kv_heads, seen, _num_processors(q.device))
        partial, weight = out, out
        if splits > 1:
            partial = q.new_empty((num_decodes, num_heads, splits, head_dim), dtype=torch.float32)
            weight = q.new_empty((num_decodes, num_heads, splits), dtype=torch.float32)
        _decode_kernel[(splits, num_kv_heads, num_decodes)](
            *inputs, partial, weight, *scalars,
            **shape, SPLITS=splits, ROWS=tile.rows, KEYS=tile.keys,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        if splits > 1:
            _combine_kernel[(num_heads, num_decodes)](
                partial, weight, out,
                SPLITS=splits, PARTS=triton.next_power_of_2(splits), HEAD_DIM=head_dim, COLUMNS=columns,
                num_warps=4,
            )  # fmt: skip

    if num_chunks:
        tile = chunk_tile(head_dim, group, q.dtype.itemsize)
        queries = tile.rows // triton.next_power_of_2(group)
        num_tiles = (num_tokens - num_decodes) // queries + num_chunks
        _chunk_kernel[(num_tiles, num_kv_heads)](
            *inputs, out, num_decodes, num_decodes + num_chunks, *scalars,
            **shape, QUERIES=queries, GROUP_ROWS=triton.next_power_of_2(group), KEYS=tile.keys,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return out


@dataclass(slots=True, frozen=True)
class Tile:
    """How much one program holds at a time."""

    rows: int
    """Query rows (query tokens times grouped heads); a matrix product needs at least 16."""
    keys: int
    warps: int
    stages: int


def decode_tile(head_dim: int, group: int, itemsize: int) -> Tile:
    """Few rows: what counts is how many bytes of keys and values are under way."""
    rows = max(16, triton.next_power_of_2(group))
    if itemsize == 4:
        return Tile(rows=rows, keys=16, warps=8, stages=2)
    return Tile(rows=rows, keys=64 if head_dim <= 128 else 32, warps=4, stages=3)


def chunk_tile(head_dim: int, group: int, itemsize: int) -> Tile:
    """Many rows, as far as the accumulator leaves registers for the scores."""
    columns = triton.next_power_of_2(head_dim)
    rows = max(16, triton.next_power_of_2(group))
    if itemsize == 4:  # a float32 product is three of the tensor cores' TF32 products: many registers
        return Tile(rows=rows, keys=16, warps=8, stages=1)
    if columns <= 128:
        # The stages are those that ptxas schedules without a spill, measured by benchmarks/compile.py.
        return Tile(rows=max(rows, 128), keys=64, warps=8, stages=3 if columns == 128 else 2)
    return Tile(rows=max(rows, 64), keys=32, warps=8, stages=2)


def num_splits(programs: int, max_context: int, processors: int) -> int:
    """Parts per decode, so that all multiprocessors have work and no part is too short to pay."""
    wanted = triton.cdiv(2 * processors, programs)
    return int(max(1, min(wanted, max_context // _SPLIT_AT_LEAST, _MAX_SPLITS)))


@functools.cache
def _num_processors(device: torch.device) -> int:
    if device.type != "cuda":  # interpreted, or compiled ahead of time: as on an H200
        return 132
    return torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit
def _decode_kernel(
    q_ptr, key_cache_ptr, value_cache_ptr, block_tables_ptr, query_starts_ptr, context_lens_ptr,
    out_ptr, weight_ptr,
    scale, soft_cap, q_stride, table_stride,
    WINDOW: tl.constexpr, CAPPED: tl.constexpr, GROUP: tl.constexpr, NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    SPLITS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """One part of one decode's past, for the query heads of one key head."""
    split, kv_head, seq = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    context = tl.load(context_lens_ptr + seq)
    token = tl.load(query_starts_ptr + seq).to(tl.int64)
    first = 0
    if WINDOW > 0:
        first = tl.maximum(context - WINDOW, 0)
    part = tl.cdiv(tl.cdiv(context - first, SPLITS), KEYS) * KEYS
    begin = first + split * part
    end = tl.minimum(begin + part, context)

    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    head = kv_head * GROUP + row
    mask = (row < GROUP)[:, None] & (column < HEAD_DIM)[None, :]
    q = tl.load(q_ptr + token * q_stride + head[:, None] * HEAD_DIM + column[None, :], mask=mask, other=0.0)
    accumulator, largest, total = _attend(
        q, tl.full([ROWS], 0, tl.int32) + context - 1, begin, end, kv_head,
        key_cache_ptr, value_cache_ptr, block_tables_ptr + seq.to(tl.int64) * table_stride, scale, soft_cap,
        0, CAPPED, NUM_KV_HEADS, HEAD_DIM, COLUMNS, BLOCK_SIZE, ROWS, KEYS,
    )  # fmt: skip

    total_or_one = tl.where(total > 0.0, total, 1.0)
    attended = accumulator / total_or_one[:, None]
    if SPLITS == 1:
        at = token * (NUM_KV_HEADS * GROUP) + head
        tl.store(
            out_ptr + at[:, None] * HEAD_DIM + column[None, :],
            attended.to(out_ptr.dtype.element_ty),
            mask=mask,
        )
    else:
        at = (seq.to(tl.int64) * (NUM_KV_HEADS * GROUP) + head) * SPLITS + split
        tl.store(out_ptr + at[:, None] * HEAD_DIM + column[None, :], attended, mask=mask)
        log_weight = tl.where(total > 0.0, largest + tl.log2(total_or_one), float("-inf"))
        tl.store(weight_ptr + at, log_weight, mask=row < GROUP)


@triton.jit
def _combine_kernel(
    partial_ptr, weight_ptr, out_ptr,
    SPLITS: tl.constexpr, PARTS: tl.constexpr, HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The parts of one decode's head, each in proportion to its share of the softmax's denominator."""
    at = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    part, column = tl.arange(0, PARTS), tl.arange(0, COLUMNS)
    weight = tl.load(weight_ptr + at * SPLITS + part, mask=part < SPLITS, other=float("-inf"))
    share = tl.exp2(weight - tl.max(weight, axis=0))
    partial = tl.load(
        partial_ptr + (at * SPLITS + part[:, None]) * HEAD_DIM + column[None, :],
        mask=(part < SPLITS)[:, None] & (column < HEAD_DIM)[None, :],
        other=0.0,
    )
    attended = tl.sum(partial * share[:, None], axis=0) / tl.sum(share, axis=0)
    tl.store(out_ptr + at * HEAD_DIM + column, attended.to(out_ptr.dtype.element_ty), mask=column < HEAD_DIM)


@triton.jit
def _chunk_kernel(
    q_ptr, key_cache_ptr, value_cache_ptr, block_tables_ptr, query_starts_ptr, context_lens_ptr,
    out_ptr, first_seq, num_seqs,
    scale, soft_cap, q_stride, table_stride,
    WINDOW: tl.constexpr, CAPPED: tl.constexpr, GROUP: tl.constexpr, NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    QUERIES: tl.constexpr, GROUP_ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """A tile of one chunk's query tokens, for the query heads of one key head."""
    tile, kv_head = tl.program_id(0), tl.program_id(1)
    ROWS: tl.constexpr = QUERIES * GROUP_ROWS
    # Chunk i's tiles begin at tile (tokens before it) // QUERIES + i: enough for all, at most one too many.
    flat_start = tl.load(query_starts_ptr + first_seq)
    low, high = first_seq, num_seqs
    while low + 1 < high:
        middle = (low + high) // 2
        if (tl.load(query_starts_ptr + middle) - flat_start) // QUERIES + middle - first_seq <= tile:
            low = middle
        else:
            high = middle
    seq = low
    start = tl.load(query_starts_ptr + seq)
    num_queries = tl.load(query_starts_ptr + seq + 1) - start
    first_query = (tile - (start - flat_start) // QUERIES - (seq - first_seq)) * QUERIES
    if first_query >= num_queries:
        return

    context = tl.load(context_lens_ptr + seq)
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    query = first_query + row // GROUP_ROWS
    head = kv_head * GROUP + row % GROUP_ROWS
    mask = ((query < num_queries) & (row % GROUP_ROWS < GROUP))[:, None] & (column < HEAD_DIM)[None, :]
    token = (start + query).to(tl.int64)
    q = tl.load(
        q_ptr + token[:, None] * q_stride + head[:, None] * HEAD_DIM + column[None, :], mask=mask, other=0.0
    )
    before = context - num_queries
    begin = 0
    if WINDOW > 0:
        begin = tl.maximum(before + first_query + 1 - WINDOW, 0)
    end = tl.minimum(before + first_query + QUERIES, context)
    accumulator, _, total = _attend(
        q, before + query, begin, end, kv_head,
        key_cache_ptr, value_cache_ptr, block_tables_ptr + seq.to(tl.int64) * table_stride, scale, soft_cap,
        WINDOW, CAPPED, NUM_KV_HEADS, HEAD_DIM, COLUMNS, BLOCK_SIZE, ROWS, KEYS,
    )  # fmt: skip
    attended = accumulator / tl.where(total > 0.0, total, 1.0)[:, None]
    at = token * (NUM_KV_HEADS * GROUP) + head
    tl.store(
        out_ptr + at[:, None] * HEAD_DIM + column[None, :], attended.to(out_ptr.dtype.element_ty), mask=mask
    )


@triton.jit
def _attend(
    q, query_at, begin, end, kv_head,
    key_cache_ptr, value_cache_ptr, table_ptr, scale, soft_cap,
    WINDOW: tl.constexpr, CAPPED: tl.constexpr, NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Rows q [ROWS, COLUMNS] at positions query_at [ROWS], over the cached positions [begin, end).

    Returns the sum of values weighted by exp2(score - largest), the largest score in units of log 2, and
    the sum of weights. Nothing outside the range is read, and masked lanes are zero, whatever is there.
    """
    LOG2_E: tl.constexpr = 1.4426950408889634
    column = tl.arange(0, COLUMNS)
    accumulator = tl.zeros([ROWS, COLUMNS], tl.float32)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for tile_start in range(begin, end, KEYS):
        key_at = tile_start + tl.arange(0, KEYS)
        inside = key_at < end
        block = tl.load(table_ptr + key_at // BLOCK_SIZE, mask=inside, other=0).to(tl.int64)
        cache_row = ((block * NUM_KV_HEADS + kv_head) * BLOCK_SIZE + key_at % BLOCK_SIZE) * HEAD_DIM
        keys = tl.load(
            key_cache_ptr + cache_row[None, :] + column[:, None],
            mask=inside[None, :] & (column < HEAD_DIM)[:, None], other=0.0,
        )  # fmt: skip
        values = tl.load(
            value_cache_ptr + cache_row[:, None] + column[None, :],
            mask=inside[:, None] & (column < HEAD_DIM)[None, :], other=0.0,
        )  # fmt: skip

        scores = tl.dot(q, keys, input_precision="tf32x3") * scale
        if CAPPED:
            scores = soft_cap * (1.0 - 2.0 / (1.0 + tl.exp(scores * (2.0 / soft_cap))))
        seen = inside[None, :] & (key_at[None, :] <= query_at[:, None])
        if WINDOW > 0:
            seen &= key_at[None, :] > query_at[:, None] - WINDOW
        scores = tl.where(seen, scores * LOG2_E, float("-inf"))

        new_largest = tl.maximum(largest, tl.max(scores, axis=1))
        # A row that has seen nothing yet keeps weights of zero, not of exp2(-inf + inf).
        reference = tl.where(new_largest > float("-inf"), new_largest, 0.0)
        weights = tl.exp2(scores - reference[:, None])
        shrink = tl.exp2(largest - reference)
        total = total * shrink + tl.sum(weights, axis=1)
        accumulator = accumulator * shrink[:, None]
        accumulator = tl.dot(weights.to(values.dtype), values, accumulator, input_precision="tf32x3")
        largest = new_largest
    return accumulator, largest, total
