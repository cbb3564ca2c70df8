"""Rotary position embedding (Su et al., 2021), fused with the write into the paged KV cache.

A token's key and value are stored once, rotated, at the slot that the block table gave it; nothing that
was stored is touched again.
"""

from __future__ import annotations

from torch import Tensor

from tokenwire_kernels.reference.precision import compute_dtype


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
    """Rotate q in place, and write the rotated k, and v, into the cache.

    The first r = 2 * cos.shape[-1] dimensions of each head rotate, halves paired (dimension i with
    i + r / 2); the others pass through.

    Args:
        q: [num_tokens, num_heads, head_dim]; rotated in place.
        k: [num_tokens, num_kv_heads, head_dim]; what it holds afterwards is unspecified.
        v: [num_tokens, num_kv_heads, head_dim]. q, k and v may be views of one tensor.
        cos: float32 [max_positions, r / 2].
        sin: float32 [max_positions, r / 2].
        positions: int64 [num_tokens], each token's position in its sequence.
        key_cache: [num_blocks, num_kv_heads, block_size, head_dim]; written.
        value_cache: the same; written.
        slots: int64 [num_tokens], block * block_size + offset; -1: the token is not stored.
    """
    dtype = compute_dtype(q.dtype)
    cos = cos[positions].unsqueeze(1).to(dtype)
    sin = sin[positions].unsqueeze(1).to(dtype)
    _rotate(q, cos, sin)
    _rotate(k, cos, sin)

    if int(slots.min()) < 0:
        stored = slots >= 0
        k, v, slots = k[stored], v[stored], slots[stored]
    block_size = key_cache.shape[2]
    blocks, offsets = slots // block_size, slots % block_size
    key_cache.transpose(1, 2)[blocks, offsets] = k
    value_cache.transpose(1, 2)[blocks, offsets] = v


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotate the first 2 * cos.shape[-1] dimensions of x [num_tokens, heads, head_dim] in place."""
    half = cos.shape[-1]
    first, second = x[..., :half], x[..., half : 2 * half]
    rotated = (first * cos).addcmul_(second, sin, value=-1)
    if x.dtype == cos.dtype:
        second.mul_(cos).addcmul_(first, sin)
    else:
        second.copy_((second * cos).addcmul_(first, sin))
    first.copy_(rotated)
