"""Rotary position embedding (Su et al., 2021), fused with the normalization of queries and keys before it
and the write into the paged KV cache after it.

A token's key and value are stored once, rotated, at the slot that the block table gave it; nothing that
was stored is touched again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwire_kernels.batch import HeadNorms, LayerCache
from tokenwire_kernels.reference.norm import rms_norm
from tokenwire_kernels.reference.precision import compute_dtype


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
    """Normalize and rotate q in place, and write k, treated alike, and v into the cache.

    The first r = 2 * cos.shape[-1] dimensions of each head rotate, halves paired (dimension i with
    i + r / 2); the others pass through.

    Args:
        q: [num_tokens, num_heads, head_dim]; rotated in place.
        k: [num_tokens, num_kv_heads, head_dim]; what it holds afterwards is unspecified.
        v: [num_tokens, num_kv_heads, head_dim]. q, k and v may be views of one tensor.
        cos: float32 [max_positions, r / 2].
        sin: float32 [max_positions, r / 2].
        positions: int64 [num_tokens], each token's position in its sequence.
        cache: written: k and v, rounded to their own dtype, over the head's scale; fp8 saturates. Of int8 the
            scale of a token's head is its largest magnitude / 127.
        slots: int64 [num_tokens], block * block_size + offset; -1: the token is not stored.
        norms: applied to each head of q and k first; None: neither is normalized.
    """
    if norms is not None:
        q.copy_(rms_norm(q, norms.q_weight, norms.eps))
        k = rms_norm(k, norms.k_weight, norms.eps)
    dtype = compute_dtype(q.dtype)
    cos = cos[positions].unsqueeze(1).to(dtype)
    sin = sin[positions].unsqueeze(1).to(dtype)
    _rotate(q, cos, sin)
    _rotate(k, cos, sin)

    if int(slots.min()) < 0:
        stored = slots >= 0
        k, v, slots = k[stored], v[stored], slots[stored]
    block_size = cache.keys.shape[2]
    places = (slots // block_size, slots % block_size)
    _store(cache.keys, cache.key_scales, places, k)
    _store(cache.values, cache.value_scales, places, v)


def _store(cache: Tensor, scales: Tensor | None, places: tuple[Tensor, Tensor], x: Tensor) -> None:
    """Write x [num_tokens, num_kv_heads, head_dim] at (block, offset) of each token."""
    if cache.dtype == torch.int8:
        x = _with_own_scales(x)
    if scales is not None:
        x = x.to(compute_dtype(x.dtype)) / scales[:, None]
    if cache.dtype == torch.float8_e4m3fn:
        most = torch.finfo(cache.dtype).max
        x, cache = x.clamp(-most, most).to(cache.dtype).view(torch.uint8), cache.view(torch.uint8)
    cache.transpose(1, 2)[places] = x.to(cache.dtype)


def _with_own_scales(x: Tensor) -> Tensor:
    """x [..., head_dim] as int8 [..., head_dim + CACHE_SCALE_BYTES]."""
    x = x.float()
    scales = x.abs().amax(dim=-1, keepdim=True) / 127
    codes = (x / scales.where(scales > 0, 1)).round()
    return torch.cat([codes.to(torch.int8), scales.view(torch.int8)], dim=-1)


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
