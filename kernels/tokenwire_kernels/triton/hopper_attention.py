"""Attention of chunks on Hopper, by warps of different tasks, as in FlashAttention-3 (Shah et al., 2024).

As in `chunk_attention.py`, a program takes a tile of one chunk's queries, for the query heads of one key
head. Here its warps share the work out:

- One warp has the tensor memory accelerator (TMA) bring keys and values into shared memory, 128 at a time,
  into a ring of stages. What it brings at once is a box: slots of one head that lie in one block.
- Two groups of four warps attend, with 64 rows each: while one takes exponents, the other's products keep the
  tensor cores busy.

A stage has four barriers: its keys are there (full), its keys have been multiplied by both groups (empty),
and the same for values. All three tasks walk the same tiles in the same order; tile i is in stage i % STAGES,
and completes phase i // STAGES of each of its barriers. A program without queries walks no tile, and waits at
no barrier.

No table entry behind a context is read: boxes there are replaced by the context's last one. Scores of slots
behind the context are masked, and their values are overwritten with zeros before they are multiplied, so that
it does not matter what lies there.

Written in Gluon, Triton's experimental language of layouts and barriers: where that is missing, or refuses
the kernel, `attention.py` computes, as it does for the shapes that are not served.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from tokenwire_kernels.batch import AttentionBatch, LayerCache
from tokenwire_kernels.triton import attention
from tokenwire_kernels.triton.decode_attention import decode_attention

barrier = gl.thread_barrier if hasattr(gl, "thread_barrier") else gl.barrier
"""Of the warps that share a task; Triton 3.7 renamed it."""
_ROWS = 128
"""Query rows of a program: half of them for each group."""
_KEYS = 128
"""Of a tile. With 64, and three stages, an H200 took a tenth longer."""
_WIDTH = gl.constexpr(64)
"""Columns of a box: the 128 bytes over which the tensor cores' layout of shared memory is swizzled."""


def paged_attention(
    q: Tensor,
    cache: LayerCache,
    batch: AttentionBatch,
    scale: float,
    window: int = 0,
    soft_cap: float = 0.0,
    sinks: Tensor | None = None,
) -> Tensor:
    """See `triton.attention.paged_attention`, which computes what is not served here."""
    has_chunks = batch.num_decodes < batch.context_lens.shape[0]
    if not has_chunks or not serves(q, cache, window, soft_cap, sinks):
        return attention.paged_attention(q, cache, batch, scale, window, soft_cap, sinks)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if batch.num_decodes > 0:
        decode_attention(q, cache, batch, out, scale, window, soft_cap, sinks)
    hopper_attention(q, cache, batch, out, scale)
    return out


def serves(q: Tensor, cache: LayerCache, window: int, soft_cap: float, sinks: Tensor | None) -> bool:
    """Whether the kernel computes this attention: that of most models, in 16 bits throughout.

    TMA's coordinates are int32: the slots of all heads and blocks number less than 2**31.
    """
    num_blocks, num_kv_heads, block_size, head_dim = cache.keys.shape
    return (
        q.dtype in (torch.bfloat16, torch.float16)
        and cache.keys.dtype == q.dtype
        and cache.key_scales is None
        and cache.value_scales is None
        and head_dim in (64, 128)
        and block_size % 16 == 0
        and q.shape[1] // num_kv_heads <= _ROWS
        and num_blocks * num_kv_heads * block_size < 2**31
        and window == 0
        and soft_cap == 0.0
        and sinks is None
    )


def hopper_attention(q: Tensor, cache: LayerCache, batch: AttentionBatch, out: Tensor, scale: float) -> None:
    """Write the rows of `out` behind the batch's decodes, of what it `serves`. See
    `reference.attention.paged_attention`."""
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads, block_size = cache.keys.shape[1:3]
    group = num_heads // num_kv_heads
    queries = _ROWS // group
    num_seqs = batch.context_lens.shape[0]
    box = min(_KEYS, block_size & -block_size)  # the longest that divides blocks and tiles
    layout = gl.NVMMASharedLayout(128, 16, 2)
    boxes = [
        TensorDescriptor.from_tensor(x.view(-1, head_dim), [box, _WIDTH.value], layout)
        for x in (cache.keys, cache.values)
    ]
    # Of decodes that are padding, there are fewer tokens than sequences.
    num_tiles = num_tokens // queries + num_seqs - batch.num_decodes
    _hopper_kernel[(num_tiles * num_kv_heads,)](
        q, *boxes, batch.block_tables, batch.query_starts, batch.context_lens, out,
        batch.num_decodes, num_seqs, scale, q.stride(0), batch.block_tables.stride(0),
        GROUP=group, NUM_KV_HEADS=num_kv_heads, HEAD_DIM=head_dim, BLOCK_SIZE=block_size, BOX=box,
        QUERIES=queries, KEYS=_KEYS, STAGES=2 if head_dim == 128 else 3,
        num_warps=4, maxnreg=168,
    )  # fmt: skip


@gluon.jit(do_not_specialize=["first_seq", "num_seqs", "table_stride"])
def _hopper_kernel(
    q_ptr, key_source, value_source, block_tables_ptr, query_starts_ptr, context_lens_ptr, out_ptr,
    first_seq, num_seqs, scale, q_stride, table_stride,
    GROUP: gl.constexpr, NUM_KV_HEADS: gl.constexpr, HEAD_DIM: gl.constexpr, BLOCK_SIZE: gl.constexpr,
    BOX: gl.constexpr, QUERIES: gl.constexpr, KEYS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    # The longest pasts are walked first, of all heads: a chunk's last tile should not be the last to begin.
    program = gl.num_programs(0) - 1 - gl.program_id(0)
    tile = program // NUM_KV_HEADS
    kv_head = program % NUM_KV_HEADS
    # Chunk i's tiles begin at tile (tokens before it) // QUERIES + i: enough for all, at most one too many.
    flat_start = gl.load(query_starts_ptr + first_seq)
    low = first_seq
    high = num_seqs
    while low + 1 < high:
        middle = (low + high) // 2
        if (gl.load(query_starts_ptr + middle) - flat_start) // QUERIES + middle - first_seq <= tile:
            low = middle
        else:
            high = middle
    seq = low
    start = gl.load(query_starts_ptr + seq)
    num_queries = gl.load(query_starts_ptr + seq + 1) - start
    first_query = (tile - (start - flat_start) // QUERIES - (seq - first_seq)) * QUERIES
    context = gl.load(context_lens_ptr + seq)
    first_at = context - num_queries + first_query
    # All queries see the keys of the first whole_tiles, so that these need no masks.
    whole_tiles = (first_at + 1) // KEYS
    num_tiles = (gl.minimum(first_at + QUERIES, context) + KEYS - 1) // KEYS
    if first_query >= num_queries:
        whole_tiles = 0
        num_tiles = 0
    table_ptr = block_tables_ptr + seq.to(gl.int64) * table_stride

    SHARED: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    BOXES: gl.constexpr = KEYS // BOX * (HEAD_DIM // _WIDTH)
    dtype: gl.constexpr = q_ptr.dtype.element_ty
    q = gl.allocate_shared_memory(dtype, [2, 64, HEAD_DIM], SHARED)
    key_boxes = gl.allocate_shared_memory(dtype, [STAGES * BOXES, BOX, _WIDTH], SHARED)
    value_boxes = gl.allocate_shared_memory(dtype, [STAGES * BOXES, BOX, _WIDTH], SHARED)
    key_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    key_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    value_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    value_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(key_full.index(stage), count=1)
        mbarrier.init(key_empty.index(stage), count=2)
        mbarrier.init(value_full.index(stage), count=1)
        mbarrier.init(value_empty.index(stage), count=2)
    fence_async_shared()
    barrier()
    gl.warp_specialize(
        [
            (_attend, (
                0, q_ptr, out_ptr, q, key_boxes, value_boxes, key_full, key_empty, value_full, value_empty,
                start, first_query, num_queries, context, kv_head, whole_tiles, num_tiles, scale, q_stride,
                GROUP, NUM_KV_HEADS, HEAD_DIM, BOX, QUERIES, KEYS, STAGES,
            )),
            (_attend, (
                1, q_ptr, out_ptr, q, key_boxes, value_boxes, key_full, key_empty, value_full, value_empty,
                start, first_query, num_queries, context, kv_head, whole_tiles, num_tiles, scale, q_stride,
                GROUP, NUM_KV_HEADS, HEAD_DIM, BOX, QUERIES, KEYS, STAGES,
            )),
            (_bring, (
                key_source, value_source, key_boxes, value_boxes,
                key_full, key_empty, value_full, value_empty, table_ptr, context, kv_head, num_tiles,
                NUM_KV_HEADS, HEAD_DIM, BLOCK_SIZE, BOX, KEYS, STAGES,
            )),
        ],
        [4, 1],
        [232, 40],  # registers of a thread: with 24, the places of boxes spill
    )  # fmt: skip


@gluon.jit
def _bring(
    key_source, value_source, key_boxes, value_boxes, key_full, key_empty, value_full, value_empty,
    table_ptr, context, kv_head, num_tiles,
    NUM_KV_HEADS: gl.constexpr, HEAD_DIM: gl.constexpr, BLOCK_SIZE: gl.constexpr, BOX: gl.constexpr,
    KEYS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """The task of one warp: fill stages as soon as they are empty, which they are at first."""
    for i in range(num_tiles):
        stage = i % STAGES
        phase = (i // STAGES) & 1
        mbarrier.wait(key_empty.index(stage), phase ^ 1)
        _bring_tile(
            key_source, key_boxes, key_full.index(stage), i, stage, table_ptr, context, kv_head,
            NUM_KV_HEADS, HEAD_DIM, BLOCK_SIZE, BOX, KEYS,
        )  # fmt: skip
        mbarrier.wait(value_empty.index(stage), phase ^ 1)
        _bring_tile(
            value_source, value_boxes, value_full.index(stage), i, stage, table_ptr, context, kv_head,
            NUM_KV_HEADS, HEAD_DIM, BLOCK_SIZE, BOX, KEYS,
        )  # fmt: skip


@gluon.jit
def _bring_tile(
    source, boxes, full, i, stage, table_ptr, context, kv_head,
    NUM_KV_HEADS: gl.constexpr, HEAD_DIM: gl.constexpr, BLOCK_SIZE: gl.constexpr, BOX: gl.constexpr,
    KEYS: gl.constexpr,
):  # fmt: skip
    """Tile i, box by box: all its rows of the first columns, then all of the next, as `_tiles` reads them."""
    ROWS: gl.constexpr = KEYS // BOX
    HALVES: gl.constexpr = HEAD_DIM // _WIDTH
    last_box = (context - 1) // BOX
    mbarrier.expect(full, KEYS * HEAD_DIM * 2)
    for row in gl.static_range(ROWS):
        position = gl.minimum(i * ROWS + row, last_box) * BOX
        block = gl.load(table_ptr + position // BLOCK_SIZE)
        slot = (block * NUM_KV_HEADS + kv_head) * BLOCK_SIZE + position % BLOCK_SIZE
        for half in gl.static_range(HALVES):
            box = boxes.index((stage * HALVES + half) * ROWS + row)
            tma.async_copy_global_to_shared(source, [slot, half * _WIDTH], full, box)


@gluon.jit
def _attend(
    which: gl.constexpr, q_ptr, out_ptr, q, key_boxes, value_boxes,
    key_full, key_empty, value_full, value_empty,
    start, first_query, num_queries, context, kv_head, whole_tiles, num_tiles, scale, q_stride,
    GROUP: gl.constexpr, NUM_KV_HEADS: gl.constexpr, HEAD_DIM: gl.constexpr, BOX: gl.constexpr,
    QUERIES: gl.constexpr, KEYS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """The task of each group of four warps: the first or the last 64 rows of the program's tile."""
    IN_MEMORY: gl.constexpr = gl.BlockedLayout([1, 8], [256 // HEAD_DIM, HEAD_DIM // 8], [4, 1], [1, 0])
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 16])
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD_DIM, 16])
    row = which * 64 + gl.arange(0, 64, gl.SliceLayout(1, IN_MEMORY))
    column = gl.arange(0, HEAD_DIM, gl.SliceLayout(0, IN_MEMORY))
    query = first_query + row // GROUP
    # Groups that do not divide the rows leave some at the end, which belong to nothing.
    mask = ((row // GROUP < QUERIES) & (query < num_queries))[:, None] & (column < HEAD_DIM)[None, :]
    head = kv_head * GROUP + row % GROUP
    token = (start + query).to(gl.int64)
    loaded = gl.load(
        q_ptr + token[:, None] * q_stride + head[:, None] * HEAD_DIM + column[None, :], mask=mask, other=0.0
    )
    own_q = q.index(which)
    own_q.store(loaded)
    fence_async_shared()
    barrier()

    score_row = which * 64 + gl.arange(0, 64, gl.SliceLayout(1, SCORES))
    query_at = context - num_queries + first_query + score_row // GROUP
    accumulator = gl.zeros([64, HEAD_DIM], gl.float32, SUMS)
    largest = gl.full([64], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
    total = gl.zeros([64], gl.float32, gl.SliceLayout(1, SCORES))
    accumulator, largest, total = _walk(
        0, whole_tiles, own_q, key_boxes, value_boxes, key_full, key_empty, value_full, value_empty,
        context, query_at, scale, accumulator, largest, total, False, HEAD_DIM, BOX, KEYS, STAGES,
    )  # fmt: skip
    accumulator, largest, total = _walk(
        whole_tiles, num_tiles, own_q, key_boxes, value_boxes, key_full, key_empty, value_full, value_empty,
        context, query_at, scale, accumulator, largest, total, True, HEAD_DIM, BOX, KEYS, STAGES,
    )  # fmt: skip
    attended = accumulator / gl.convert_layout(total, gl.SliceLayout(1, SUMS))[:, None]
    attended = gl.convert_layout(attended.to(out_ptr.dtype.element_ty), IN_MEMORY)
    at = token * (NUM_KV_HEADS * GROUP) + head
    gl.store(out_ptr + at[:, None] * HEAD_DIM + column[None, :], attended, mask=mask)


@gluon.jit
def _walk(
    begin, end, q, key_boxes, value_boxes, key_full, key_empty, value_full, value_empty,
    context, query_at, scale, accumulator, largest, total,
    MASKED: gl.constexpr, HEAD_DIM: gl.constexpr, BOX: gl.constexpr, KEYS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Rows q [64, HEAD_DIM], in shared memory, at positions query_at [64], over the tiles [begin, end).

    Takes and returns the sum of values weighted by exp2(score - largest) [64, HEAD_DIM], the largest score in
    units of log 2, and the sum of weights. Every row sees a key of the first tile, so that largest is finite
    from then on.
    """
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 16])
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD_DIM, 16])
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(0, SUMS, 2)
    keys = _tiles(key_boxes, HEAD_DIM, KEYS, STAGES)
    values = _tiles(value_boxes, HEAD_DIM, KEYS, STAGES)
    unit = scale * 1.4426950408889634
    zeros = gl.zeros([64, KEYS], gl.float32, SCORES)
    for i in range(begin, end):
        stage = i % STAGES
        phase = (i // STAGES) & 1
        mbarrier.wait(key_full.index(stage), phase)
        scores = warpgroup_mma(q, keys.index(stage).permute([1, 0]), zeros, use_acc=False, is_async=True)
        scores = warpgroup_mma_wait(0, deps=[scores])
        barrier()
        mbarrier.arrive(key_empty.index(stage), count=1)

        if MASKED:
            key_at = i * KEYS + gl.arange(0, KEYS, gl.SliceLayout(0, SCORES))
            scores = gl.where(key_at[None, :] <= query_at[:, None], scores, float("-inf"))
        new_largest = gl.maximum(largest, gl.max(scores, axis=1) * unit)
        weights = gl.exp2(scores * unit - new_largest[:, None])
        shrink = gl.exp2(largest - new_largest)
        total = total * shrink + gl.sum(weights, axis=1)
        largest = new_largest
        accumulator = accumulator * gl.convert_layout(shrink, gl.SliceLayout(1, SUMS))[:, None]
        weights = gl.convert_layout(weights.to(q.dtype), WEIGHTS)

        mbarrier.wait(value_full.index(stage), phase)
        if MASKED:  # noqa: SIM102 (a branch of the compiler's, and one of the program's)
            if (i + 1) * KEYS > context:
                _clear(value_boxes, stage, context - i * KEYS, HEAD_DIM, BOX, KEYS)
        accumulator = warpgroup_mma(weights, values.index(stage), accumulator, is_async=True)
        accumulator = warpgroup_mma_wait(0, deps=[accumulator])
        barrier()
        mbarrier.arrive(value_empty.index(stage), count=1)
    return accumulator, largest, total


@gluon.jit
def _tiles(boxes, HEAD_DIM: gl.constexpr, KEYS: gl.constexpr, STAGES: gl.constexpr):
    """The boxes of each stage as one tile: the tensor cores' layout has columns 64 to 127 behind all rows."""
    return boxes._reinterpret(boxes.dtype, [STAGES, KEYS, HEAD_DIM], gl.NVMMASharedLayout(128, 16, 2))


@gluon.jit
def _clear(boxes, stage, first, HEAD_DIM: gl.constexpr, BOX: gl.constexpr, KEYS: gl.constexpr):
    """Write zeros to the rows of a tile from `first` on. Each group does, for itself, and changes no row that
    the other may be reading: what stays is written as it was."""
    IN_SHARED: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    ROWS: gl.constexpr = KEYS // BOX
    HALVES: gl.constexpr = HEAD_DIM // _WIDTH
    lane = gl.arange(0, BOX, gl.SliceLayout(1, IN_SHARED))
    for row in range(first // BOX, ROWS):
        for half in gl.static_range(HALVES):
            box = boxes.index((stage * HALVES + half) * ROWS + row)
            stays = (row * BOX + lane < first)[:, None]
            box.store(gl.where(stays, box.load(IN_SHARED), 0.0).to(boxes.dtype))
    fence_async_shared()
    barrier()
