"""Rotary embedding fused with the write into the paged KV cache: every q, k and v is read once.

A program takes one token and a few heads: query heads are rotated in place, key heads are rotated into
the cache, and the value heads go along with the key heads.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_HEADS = 4
"""Heads per program: enough programs for a small decode batch, enough work in each for a large one."""


def rotary_and_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slots: Tensor,
) -> None:
    """See `reference.rotary.rotary_and_cache`. Heads and dimensions are contiguous; k is left as it was."""
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads, block_size = key_cache.shape[1:3]
    half = cos.shape[-1]
    programs = triton.cdiv(num_heads, _HEADS) + triton.cdiv(num_kv_heads, _HEADS)
    _rotary_and_cache_kernel[(num_tokens, programs)](
        q, k, v, cos, sin, positions, key_cache, value_cache, slots,
        q.stride(0), k.stride(0), v.stride(0),
        NUM_HEADS=num_heads, NUM_KV_HEADS=num_kv_heads, HEAD_DIM=head_dim, HALF=half, BLOCK_SIZE=block_size,
        HEADS=_HEADS, HALF_COLUMNS=triton.next_power_of_2(half), COLUMNS=triton.next_power_of_2(head_dim),
        num_warps=4 if head_dim > 64 else 2,
    )  # fmt: skip


@triton.jit
def _rotary_and_cache_kernel(
    q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, positions_ptr, key_cache_ptr, value_cache_ptr, slots_ptr,
    q_stride, k_stride, v_stride,
    NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HALF: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, HEADS: tl.constexpr, HALF_COLUMNS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    Q_PROGRAMS: tl.constexpr = (NUM_HEADS + HEADS - 1) // HEADS
    program = tl.program_id(1)
    position = tl.load(positions_ptr + token)
    pair = tl.arange(0, HALF_COLUMNS)[None, :]
    cos = tl.load(cos_ptr + position * HALF + pair, mask=pair < HALF, other=0.0)
    sin = tl.load(sin_ptr + position * HALF + pair, mask=pair < HALF, other=0.0)

    if program < Q_PROGRAMS:
        head = program * HEADS + tl.arange(0, HEADS)[:, None]
        mask = (head < NUM_HEADS) & (pair < HALF)
        at = q_ptr + token * q_stride + head * HEAD_DIM + pair
        first = tl.load(at, mask=mask, other=0.0).to(tl.float32)
        second = tl.load(at + HALF, mask=mask, other=0.0).to(tl.float32)
        dtype = q_ptr.dtype.element_ty
        tl.store(at, (first * cos - second * sin).to(dtype), mask=mask)
        tl.store(at + HALF, (second * cos + first * sin).to(dtype), mask=mask)
    else:
        slot = tl.load(slots_ptr + token)
        if slot >= 0:
            head = (program - Q_PROGRAMS) * HEADS + tl.arange(0, HEADS)[:, None]
            row = ((slot // BLOCK_SIZE) * NUM_KV_HEADS + head) * BLOCK_SIZE + slot % BLOCK_SIZE
            mask = (head < NUM_KV_HEADS) & (pair < HALF)
            at = k_ptr + token * k_stride + head * HEAD_DIM
            first = tl.load(at + pair, mask=mask, other=0.0).to(tl.float32)
            second = tl.load(at + HALF + pair, mask=mask, other=0.0).to(tl.float32)
            to = key_cache_ptr + row * HEAD_DIM
            dtype = key_cache_ptr.dtype.element_ty
            tl.store(to + pair, (first * cos - second * sin).to(dtype), mask=mask)
            tl.store(to + HALF + pair, (second * cos + first * sin).to(dtype), mask=mask)

            column = tl.arange(0, COLUMNS)[None, :]
            if 2 * HALF < HEAD_DIM:
                mask = (head < NUM_KV_HEADS) & (column >= 2 * HALF) & (column < HEAD_DIM)
                tl.store(to + column, tl.load(at + column, mask=mask, other=0.0).to(dtype), mask=mask)
            mask = (head < NUM_KV_HEADS) & (column < HEAD_DIM)
            value = tl.load(v_ptr + token * v_stride + head * HEAD_DIM + column, mask=mask, other=0.0)
            tl.store(value_cache_ptr + row * HEAD_DIM + column, value.to(dtype), mask=mask)
