"""The inner loop of attention: rows of queries over a stretch of one sequence's paged past.

The running softmax of FlashAttention (Dao et al., 2022), in powers of two. The query heads that share a key
head are rows of the same tile, so each key and value is read once for all of them. A key is addressed
through its block's entry in the table, so blocks of any size serve, and a tile may begin anywhere.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import triton
import triton.language as tl

_IS_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
"""Without inline assembly."""


@triton.jit
def attend(
    q, query_at, begin, end, kv_head, state,
    key_cache_ptr, value_cache_ptr, key_scales_ptr, table_ptr, scale, soft_cap,
    MASKED: tl.constexpr, WHOLE: tl.constexpr, WINDOW: tl.constexpr, CAPPED: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    KEYS: tl.constexpr, ALIGNED: tl.constexpr = False, PAIRED: tl.constexpr = False,
):  # fmt: skip
    """Rows q [ROWS, COLUMNS] at positions query_at [ROWS], over the cached positions [begin, end).

    Takes and returns the state: the sum of values weighted by exp2(score - largest) [ROWS, COLUMNS], the
    largest score in units of log 2, and the sum of weights. Nothing outside the range is read, and masked
    lanes are zero, whatever is there. Without MASKED, every row sees all of the range. A WHOLE range begins
    and ends at multiples of KEYS; an ALIGNED one begins at one. Scales are above 0.

    PAIRED is for values of 8 bits: two columns are loaded as one number of 16 bits, the unit in which shared
    memory is transposed on its way to the tensor cores, and come apart in registers.
    """
    LOG2_E: tl.constexpr = 1.4426950408889634
    # The three TF32 products that make a float32 one need more registers than wide heads leave.
    PRECISION: tl.constexpr = "ieee" if COLUMNS > 128 else "tf32x3"
    # The keys of every tile lie at the same places in their blocks: a part of the addresses that stays.
    IN_BLOCKS: tl.constexpr = (WHOLE or ALIGNED) and KEYS % BLOCK_SIZE == 0
    accumulator, largest, total = state
    column = tl.arange(0, COLUMNS)
    if key_scales_ptr is not None:
        scale *= tl.load(key_scales_ptr + kv_head)
    # Scores stay as the product gives them until their exponents are taken, in one operation with the scale.
    unit = LOG2_E if CAPPED else scale * LOG2_E
    lane = tl.arange(0, KEYS)
    PAIRS: tl.constexpr = COLUMNS // 2
    if PAIRED:
        even, odd = tl.split(accumulator.reshape([accumulator.shape[0], PAIRS, 2]))
    next_block = _blocks(table_ptr, begin, end, IN_BLOCKS, BLOCK_SIZE, KEYS)
    for tile_start in range(begin, end, KEYS):
        # A tile ahead, in registers: loaded in its own iteration, the table would take stages of the
        # pipeline, and leave none for keys and values to be on their way in.
        block = next_block.to(tl.int64)
        next_block = _blocks(table_ptr, tile_start + KEYS, end, IN_BLOCKS, BLOCK_SIZE, KEYS)
        slot = (lane if IN_BLOCKS else tile_start + lane) % BLOCK_SIZE
        at = ((kv_head * BLOCK_SIZE + slot) * HEAD_DIM)[:, None] + column[None, :]
        block_at = (block * (NUM_KV_HEADS * BLOCK_SIZE * HEAD_DIM))[:, None]
        if not IN_BLOCKS:
            at, block_at = 0, at + block_at
        inside = (column < HEAD_DIM)[None, :]
        if not WHOLE:
            inside = inside & (tile_start + lane < end)[:, None]
        keys = tl.trans(tl.load(key_cache_ptr + at + block_at, mask=inside, other=0.0))
        if PAIRED:
            pair = tl.arange(0, PAIRS)
            row = (block * NUM_KV_HEADS + kv_head) * BLOCK_SIZE + slot
            values = tl.load(
                value_cache_ptr.to(tl.pointer_type(tl.uint16), bitcast=True)
                + (row * (HEAD_DIM // 2))[:, None] + pair[None, :],
                mask=(tile_start + lane < end)[:, None] & (pair < HEAD_DIM // 2)[None, :], other=0,
            )  # fmt: skip
        else:
            values = tl.load(value_cache_ptr + at + block_at, mask=inside, other=0.0)

        scores = tl.dot(q, keys.to(q.dtype), input_precision=PRECISION)
        if CAPPED:
            scores = soft_cap * (1.0 - 2.0 / (1.0 + tl.exp(scores * (scale * 2.0 / soft_cap))))
        if MASKED or not WHOLE:
            key_at = tile_start + lane
            seen = (key_at < end)[None, :]
            if MASKED:
                seen = seen & (key_at[None, :] <= query_at[:, None])
                if WINDOW > 0:
                    seen = seen & (key_at[None, :] > query_at[:, None] - WINDOW)
            scores = tl.where(seen, scores, float("-inf"))

        new_largest = tl.maximum(largest, tl.max(scores, axis=1) * unit)
        # A row that has seen nothing yet keeps weights of zero, not of exp2(-inf + inf).
        reference = tl.where(new_largest > float("-inf"), new_largest, 0.0)
        weights = tl.exp2(scores * unit - reference[:, None])
        shrink = tl.exp2(largest - reference)
        total = total * shrink + tl.sum(weights, axis=1)
        if PAIRED:
            of_even, of_odd = _unpaired(values, value_cache_ptr.dtype.element_ty)
            even = tl.dot(weights.to(q.dtype), of_even, even * shrink[:, None])
            odd = tl.dot(weights.to(q.dtype), of_odd, odd * shrink[:, None])
        else:
            accumulator = accumulator * shrink[:, None]
            accumulator = tl.dot(
                weights.to(q.dtype), values.to(q.dtype), accumulator, input_precision=PRECISION
            )
        largest = new_largest
    if PAIRED:
        accumulator = tl.join(even, odd).reshape(accumulator.shape)
    return accumulator, largest, total


@triton.jit
def _blocks(
    table_ptr, tile_start, end, IN_BLOCKS: tl.constexpr, BLOCK_SIZE: tl.constexpr, KEYS: tl.constexpr
):
    """int32 [KEYS]: the blocks that a tile's keys lie in; 0 from the range's end on."""
    lane = tl.arange(0, KEYS)
    if IN_BLOCKS:  # of a tile that begins with a block, places in the table follow from the lane alone
        block = lane // BLOCK_SIZE
        is_inside = tile_start + block * BLOCK_SIZE < end
        return tl.load(table_ptr + tile_start // BLOCK_SIZE + block, mask=is_inside, other=0)
    key_at = tile_start + lane
    return tl.load(table_ptr + key_at // BLOCK_SIZE, mask=key_at < end, other=0)


@triton.jit
def _unpaired(pairs, STORED: tl.constexpr):
    """The even and the odd columns of pairs, uint16, in float16."""
    if _IS_INTERPRETED:
        even = pairs.to(tl.uint8).to(STORED, bitcast=True).to(tl.float16)
        return even, (pairs >> 8).to(tl.uint8).to(STORED, bitcast=True).to(tl.float16)
    # Two at a time: their even bytes side by side, and their odd ones.
    return tl.inline_asm_elementwise(
        """{ .reg .b32 bytes; .reg .b16 even, odd; prmt.b32 bytes, $2, 0, 0x3120; mov.b32 {even, odd}, bytes;
        cvt.rn.f16x2.e4m3x2 $0, even; cvt.rn.f16x2.e4m3x2 $1, odd; }""",
        "=r,=r,r", [pairs], dtype=(tl.float16, tl.float16), is_pure=True, pack=2,
    )  # fmt: skip


@triton.jit
def as_float16(q, scale):
    """Queries in float16, times the power of two that brings the largest to 2**14 or more, and their scale
    over it. It changes no number that is within 2**-28 of the largest, of 11 significant bits or fewer."""
    largest = tl.max(tl.max(tl.abs(q.to(tl.float32)), axis=1), axis=0)
    exponent = tl.maximum(largest, 1e-30).to(tl.int32, bitcast=True) >> 23
    power = ((2 * 127 + 14 - exponent) << 23).to(tl.float32, bitcast=True)
    return (q.to(tl.float32) * power).to(tl.float16), scale / power


@triton.jit
def nothing_seen(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The state before the first key."""
    accumulator = tl.zeros([ROWS, COLUMNS], tl.float32)
    return accumulator, tl.full([ROWS], float("-inf"), tl.float32), tl.zeros([ROWS], tl.float32)


@triton.jit
def finish(accumulator, largest, total, sinks_ptr, head, is_head, value_scales_ptr, kv_head):
    """What the rows attend to, once all keys are in: the sinks join the denominator, the scale the values."""
    if sinks_ptr is not None:
        sink = tl.load(sinks_ptr + head, mask=is_head, other=float("-inf")) * 1.4426950408889634
        new_largest = tl.maximum(largest, sink)
        reference = tl.where(new_largest > float("-inf"), new_largest, 0.0)
        shrink = tl.exp2(largest - reference)
        total = total * shrink + tl.exp2(sink - reference)
        accumulator = accumulator * shrink[:, None]
    if value_scales_ptr is not None:
        accumulator = accumulator * tl.load(value_scales_ptr + kv_head)
    return accumulator / tl.where(total > 0.0, total, 1.0)[:, None]
