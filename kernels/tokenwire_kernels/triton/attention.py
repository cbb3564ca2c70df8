"""Paged attention for a flat mixed batch: one schedule for its decodes, one launch for its chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwire_kernels.batch import AttentionBatch, LayerCache
from tokenwire_kernels.triton.chunk_attention import chunk_attention
from tokenwire_kernels.triton.decode_attention import decode_attention


def paged_attention(
    q: Tensor,
    cache: LayerCache,
    batch: AttentionBatch,
    scale: float,
    window: int = 0,
    soft_cap: float = 0.0,
    sinks: Tensor | None = None,
) -> Tensor:
    """See `reference.attention.paged_attention`. The caches are contiguous; each head of `q` is.

    A decode may have a context of 0, as padding does: it reads nothing, and its row is 0. Rows of tokens that
    belong to no sequence hold anything.
    """
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if batch.num_decodes > 0:
        decode_attention(q, cache, batch, out, scale, window, soft_cap, sinks)
    if batch.num_decodes < batch.context_lens.shape[0]:
        chunk_attention(q, cache, batch, out, scale, window, soft_cap, sinks)
    return out
