"""Attention of chunks of several query tokens each, in one launch for all sequences.

A program takes a tile of one chunk's queries, for the query heads of one key head. Which chunk a tile belongs
to is searched for on the device: the host launches the most tiles that there can be, and those without work
leave at once. A tile first walks the keys that all its queries see, without masks, then those at the edges,
in shorter tiles of keys where masks would not leave registers for long ones.

Operations: 4 * head_dim for each query head and visible key, on the tensor cores; bytes hardly count, since a
tile's keys are in the L2 cache for the next tile.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwire_kernels.batch import AttentionBatch, LayerCache
from tokenwire_kernels.triton.attend import attend, finish, nothing_seen
from tokenwire_kernels.triton.decode_attention import Tile
from tokenwire_kernels.triton.sizes import next_power_of_2
from tokenwire_kernels.triton.target import gpu_of


def chunk_attention(
    q: Tensor,
    cache: LayerCache,
    batch: AttentionBatch,
    out: Tensor,
    scale: float,
    window: int,
    soft_cap: float,
    sinks: Tensor | None,
) -> None:
    """Write the rows of `out` behind the batch's decodes. See `reference.attention.paged_attention`."""
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads, block_size = cache.keys.shape[1:3]
    group, columns = num_heads // num_kv_heads, next_power_of_2(head_dim)
    group_rows = next_power_of_2(group)
    num_seqs = batch.context_lens.shape[0]
    tile = chunk_tile(head_dim, group, q.dtype, cache.keys.dtype, gpu_of(q.device).capability)
    queries = tile.rows // group_rows
    # Of decodes that are padding, there are fewer tokens than sequences.
    num_tiles = num_tokens // queries + num_seqs - batch.num_decodes
    _chunk_kernel[(num_tiles * num_kv_heads,)](
        q, cache.keys, cache.values, cache.key_scales, cache.value_scales, sinks,
        batch.block_tables, batch.query_starts, batch.context_lens, out, batch.num_decodes, num_seqs,
        scale, soft_cap, q.stride(0), batch.block_tables.stride(0),
        WINDOW=window, CAPPED=soft_cap > 0.0, GROUP=group, NUM_KV_HEADS=num_kv_heads,
        HEAD_DIM=head_dim, COLUMNS=columns, BLOCK_SIZE=block_size,
        QUERIES=queries, GROUP_ROWS=group_rows, KEYS=tile.keys, EDGE_KEYS=min(tile.keys, 8192 // columns),
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def chunk_tile(
    head_dim: int, group: int, dtype: torch.dtype, cache_dtype: torch.dtype, capability: int
) -> Tile:
    """Many rows, as far as the accumulator leaves registers for the scores.

    Of each generation the largest that ptxas compiles without a spill (benchmarks/compile.py shows it). GPUs
    with about 100 kB of shared memory a multiprocessor (8.6, 8.9, 12.0) take an A100's.
    """
    columns = next_power_of_2(head_dim)
    rows = max(16, next_power_of_2(group))
    if dtype.itemsize == 4:  # a float32 product is three of the tensor cores' TF32 products: many registers
        return Tile(rows=rows, keys=16, warps=8 if columns <= 128 else 4, stages=1)
    is_hopper, is_blackwell = 90 <= capability < 100, 100 <= capability < 120
    if cache_dtype.itemsize == 4:  # keys of float32, which are rounded on their way: twice the bytes
        return Tile(rows=max(rows, 64), keys=16, warps=8, stages=2)
    if columns <= 128 and is_hopper:  # the fastest of those tried on an H200
        return Tile(rows=max(rows, 128), keys=64, warps=8, stages=3)
    if columns <= 128:
        keys = (8192 if is_blackwell else 4096) // max(columns, 64)
        return Tile(rows=max(rows, 128), keys=keys, warps=8, stages=3 if columns > 64 else 2)
    return Tile(rows=max(rows, 64), keys=32, warps=8, stages=2)


@triton.jit(do_not_specialize=["first_seq", "num_seqs", "table_stride"])
def _chunk_kernel(
    q_ptr, key_cache_ptr, value_cache_ptr, key_scales_ptr, value_scales_ptr, sinks_ptr,
    block_tables_ptr, query_starts_ptr, context_lens_ptr, out_ptr, first_seq, num_seqs,
    scale, soft_cap, q_stride, table_stride,
    WINDOW: tl.constexpr, CAPPED: tl.constexpr, GROUP: tl.constexpr, NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    QUERIES: tl.constexpr, GROUP_ROWS: tl.constexpr, KEYS: tl.constexpr, EDGE_KEYS: tl.constexpr,
):  # fmt: skip
    # The longest pasts are walked first, of all heads: a chunk's last tile should not be the last to begin.
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    tile, kv_head = program // NUM_KV_HEADS, program % NUM_KV_HEADS
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
    is_head = row % GROUP_ROWS < GROUP
    mask = ((query < num_queries) & is_head)[:, None] & (column < HEAD_DIM)[None, :]
    token = (start + query).to(tl.int64)
    q = tl.load(
        q_ptr + token[:, None] * q_stride + head[:, None] * HEAD_DIM + column[None, :], mask=mask, other=0.0
    )
    first_at = context - num_queries + first_query
    begin = 0
    if WINDOW > 0:
        begin = tl.maximum(first_at + 1 - WINDOW, 0)
    end = tl.minimum(first_at + QUERIES, context)
    # [begin, middle) is seen by all queries, unless a window ends within it.
    middle = begin
    if WINDOW == 0:
        middle = (first_at + 1) // KEYS * KEYS
    table_ptr = block_tables_ptr + seq.to(tl.int64) * table_stride
    state = nothing_seen(ROWS, COLUMNS)
    if WINDOW == 0:
        state = attend(
            q, row, 0, middle, kv_head, state,
            key_cache_ptr, value_cache_ptr, key_scales_ptr, table_ptr, scale, soft_cap,
            False, True, 0, CAPPED, NUM_KV_HEADS, HEAD_DIM, COLUMNS, BLOCK_SIZE, KEYS,
        )  # fmt: skip
    accumulator, largest, total = attend(
        q, first_at + row // GROUP_ROWS, middle, end, kv_head, state,
        key_cache_ptr, value_cache_ptr, key_scales_ptr, table_ptr, scale, soft_cap,
        True, False, WINDOW, CAPPED, NUM_KV_HEADS, HEAD_DIM, COLUMNS, BLOCK_SIZE, EDGE_KEYS,
    )  # fmt: skip
    attended = finish(accumulator, largest, total, sinks_ptr, head, is_head, value_scales_ptr, kv_head)
    at = token * (NUM_KV_HEADS * GROUP) + head
    tl.store(
        out_ptr + at[:, None] * HEAD_DIM + column[None, :], attended.to(out_ptr.dtype.element_ty), mask=mask
    )
