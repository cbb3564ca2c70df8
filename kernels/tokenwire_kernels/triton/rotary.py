"""QK-norm, rotary embedding and the write into the paged KV cache in one launch: q, k and v are read once.

A program takes one token and a few heads: query heads are normalized and rotated in place, key heads into
the cache, and the value heads go along with the key heads. It rounds exactly where the reference does.

Bytes: 2 per element of q, and one read of k and v and one write in the cache's dtype; a decode of Llama 3.1
8B moves 24 kB a token and layer, so that at small batches the launch is the cost.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from tokenwire_kernels.batch import HeadNorms, LayerCache
from tokenwire_kernels.triton.dependent import launch_options, wait_for_kernels_before
from tokenwire_kernels.triton.sizes import ceil_div, next_power_of_2

_HEADS = 4
"""Heads per program: enough programs for a small decode batch, enough work in each for a large one."""


def rotary_and_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    cache: LayerCache,
    slots: Tensor,
    norms: HeadNorms | None = None,
) -> None:
    """See `reference.rotary.rotary_and_cache`. Heads and dimensions are contiguous; k is left as it was."""
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads, block_size = cache.keys.shape[1:3]
    half = cos.shape[-1]
    programs = ceil_div(num_heads, _HEADS) + ceil_div(num_kv_heads, _HEADS)
    _rotary_and_cache_kernel[(num_tokens, programs)](
        q, k, v, cos, sin, positions, cache.keys, cache.values, slots,
        cache.key_scales, cache.value_scales,
        norms and norms.q_weight, norms and norms.k_weight, norms.eps if norms else 0.0,
        q.stride(0), k.stride(0), v.stride(0),
        NUM_HEADS=num_heads, NUM_KV_HEADS=num_kv_heads, HEAD_DIM=head_dim, HALF=half, BLOCK_SIZE=block_size,
        HEADS=_HEADS, PAIRS=next_power_of_2(half), COLUMNS=next_power_of_2(head_dim),
        num_warps=4 if head_dim > 64 else 2, **launch_options(q.device),
    )  # fmt: skip


@triton.jit
def _rotary_and_cache_kernel(
    q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, positions_ptr, key_cache_ptr, value_cache_ptr, slots_ptr,
    key_scales_ptr, value_scales_ptr, q_weight_ptr, k_weight_ptr, eps,
    q_stride, k_stride, v_stride,
    NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HALF: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, HEADS: tl.constexpr, PAIRS: tl.constexpr, COLUMNS: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    wait_for_kernels_before(DEPENDENT)
    token = tl.program_id(0).to(tl.int64)
    Q_PROGRAMS: tl.constexpr = (NUM_HEADS + HEADS - 1) // HEADS
    program = tl.program_id(1)
    position = tl.load(positions_ptr + token)
    pair = tl.arange(0, PAIRS)[None, :]
    cos = tl.load(cos_ptr + position * HALF + pair, mask=pair < HALF, other=0.0)
    sin = tl.load(sin_ptr + position * HALF + pair, mask=pair < HALF, other=0.0)

    if program < Q_PROGRAMS:
        head = program * HEADS + tl.arange(0, HEADS)[:, None]
        mask = head < NUM_HEADS
        from_ptr = q_ptr + token * q_stride + head * HEAD_DIM
        _rotate(from_ptr, q_weight_ptr, from_ptr, cos, sin, 1.0, mask, eps, HEAD_DIM, HALF, PAIRS, COLUMNS)
    else:
        slot = tl.load(slots_ptr + token)
        if slot >= 0:
            head = (program - Q_PROGRAMS) * HEADS + tl.arange(0, HEADS)[:, None]
            mask = head < NUM_KV_HEADS
            row = (((slot // BLOCK_SIZE) * NUM_KV_HEADS + head) * BLOCK_SIZE + slot % BLOCK_SIZE) * HEAD_DIM
            scale = tl.full([HEADS, 1], 1.0, tl.float32)
            if key_scales_ptr is not None:
                scale = tl.load(key_scales_ptr + head, mask=mask, other=1.0)
            from_ptr = k_ptr + token * k_stride + head * HEAD_DIM
            _rotate(
                from_ptr, k_weight_ptr, key_cache_ptr + row, cos, sin, scale, mask, eps,
                HEAD_DIM, HALF, PAIRS, COLUMNS,
            )  # fmt: skip

            scale = tl.full([HEADS, 1], 1.0, tl.float32)
            if value_scales_ptr is not None:
                scale = tl.load(value_scales_ptr + head, mask=mask, other=1.0)
            column = tl.arange(0, COLUMNS)[None, :]
            mask = mask & (column < HEAD_DIM)
            values = tl.load(v_ptr + token * v_stride + head * HEAD_DIM + column, mask=mask, other=0.0)
            _store(value_cache_ptr + row + column, values, scale, mask)


@triton.jit
def _rotate(
    from_ptr, weight_ptr, to_ptr, cos, sin, scale, mask, eps,
    HEAD_DIM: tl.constexpr, HALF: tl.constexpr, PAIRS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Normalize heads where there is a weight, rotate them, and store them over `scale`.

    from_ptr, to_ptr [HEADS, 1]: where each head begins, perhaps the same place.
    """
    dtype = from_ptr.dtype.element_ty
    pair = tl.arange(0, PAIRS)[None, :]
    column = tl.arange(0, COLUMNS)[None, :]
    in_pair = mask & (pair < HALF)
    in_rest = mask & (column >= 2 * HALF) & (column < HEAD_DIM)
    first = tl.load(from_ptr + pair, mask=in_pair, other=0.0).to(tl.float32)
    second = tl.load(from_ptr + HALF + pair, mask=in_pair, other=0.0).to(tl.float32)
    if weight_ptr is not None:
        square = tl.sum(first * first + second * second, axis=1)
        if 2 * HALF < HEAD_DIM:
            rest = tl.load(from_ptr + column, mask=in_rest, other=0.0).to(tl.float32)
            square += tl.sum(rest * rest, axis=1)
        norm = 1.0 / tl.sqrt_rn(square[:, None] / HEAD_DIM + eps)
        first = _normalized(first, norm, weight_ptr + pair, pair < HALF, dtype)
        second = _normalized(second, norm, weight_ptr + HALF + pair, pair < HALF, dtype)
    _store(to_ptr + pair, (first * cos - second * sin).to(dtype), scale, in_pair)
    _store(to_ptr + HALF + pair, (second * cos + first * sin).to(dtype), scale, in_pair)
    if 2 * HALF < HEAD_DIM:  # what does not rotate
        rest = tl.load(from_ptr + column, mask=in_rest, other=0.0).to(tl.float32)
        if weight_ptr is not None:
            rest = _normalized(rest, norm, weight_ptr + column, column < HEAD_DIM, dtype)
        _store(to_ptr + column, rest, scale, in_rest)


@triton.jit
def _normalized(x, norm, weight_ptr, mask, dtype):
    weight = tl.load(weight_ptr, mask=mask, other=0.0).to(tl.float32)
    return ((x * norm).to(dtype).to(tl.float32) * weight).to(dtype).to(tl.float32)


@triton.jit
def _store(to_ptr, x, scale, mask):
    """x over its head's scale, in the dtype of where it goes; fp8 saturates."""
    x = x.to(tl.float32) / scale
    if to_ptr.dtype.element_ty == tl.float8e4nv:
        x = tl.minimum(tl.maximum(x, -448.0), 448.0)
    tl.store(to_ptr, x.to(to_ptr.dtype.element_ty), mask=mask)
