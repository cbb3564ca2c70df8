"""Attention over a paged KV cache, for a flat batch of decodes and prefill chunks.

Cached tokens are gathered row by row, so nothing past a context, before a window, or in another
sequence's block is ever read, whatever it holds. The gather indices and masks depend on the batch alone:
they are made at the first layer of a step and kept in the batch's memo for the others.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tokenwire_kernels.batch import CACHE_SCALE_BYTES, AttentionBatch, LayerCache
from tokenwire_kernels.reference.precision import compute_dtype

_INF = float("inf")


def paged_attention(
    q: Tensor,
    cache: LayerCache,
    batch: AttentionBatch,
    scale: float,
    window: int = 0,
    soft_cap: float = 0.0,
    sinks: Tensor | None = None,
) -> Tensor:
    """softmax(cap(q kᵀ * scale)) v over each token's visible past, itself included.

    Query i of the n that a sequence of context c brings is at position c - n + i. It sees positions up to
    its own; with a window w > 0, only the last w of them.

    Args:
        q: [num_tokens, num_heads, head_dim], rotated.
        cache: of num_kv_heads heads, of which num_heads is a multiple.
        batch: which blocks and queries belong to which sequence.
        scale: multiplies the scores, usually head_dim ** -0.5.
        window: 0 sees the whole past.
        soft_cap: s > 0 replaces scores x by s * tanh(x / s).
        sinks: float32 [num_heads]: exp(sink) joins the head's softmax denominator and attends to nothing
            (attention sinks, Xiao et al., 2024); None: there are none.

    Returns:
        [num_tokens, num_heads, head_dim], contiguous, the dtype of `q`.
    """
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads = cache.keys.shape[1]
    dtype = compute_dtype(q.dtype)
    needs_bias = soft_cap > 0.0 or sinks is not None
    key = (window, needs_bias, cache.keys.shape[1:], cache.keys.dtype, dtype)
    plan = batch.memo.get(key)
    if plan is None:
        plan = batch.memo[key] = _make_plan(batch, cache.keys, window, needs_bias, dtype)
    if sinks is not None:
        sinks = sinks.to(dtype).view(num_kv_heads, -1)

    key_rows, value_rows = _rows(cache.keys), _rows(cache.values)
    out = q.new_empty(num_tokens, num_kv_heads, num_heads // num_kv_heads, head_dim)
    grouped = q.view(num_tokens, num_kv_heads, -1, head_dim)
    for part in plan:
        torch.index_select(key_rows, 0, part.rows, out=_rows(part.keys))
        torch.index_select(value_rows, 0, part.rows, out=_rows(part.values))
        keys = _widened(part, part.keys, cache.key_scales, dtype)
        values = _widened(part, part.values, cache.value_scales, dtype)
        attend = _attend_decodes if part.is_decode else _attend_chunk
        attended = attend(grouped[part.tokens].to(dtype), keys, values, part.bias, scale, soft_cap, sinks)
        out[part.tokens] = attended.to(out.dtype)
    return out.view(num_tokens, num_heads, head_dim)


@dataclass(slots=True)
class _Part:
    """Sequences that are computed together: decodes of similar context, or one prefill chunk."""

    num_heads: int
    """Sequences times their kv heads."""
    is_decode: bool
    tokens: slice | Tensor
    """Which of the flat batch's tokens."""
    rows: Tensor
    """int64 [num_seqs * num_kv_heads * span]: rows of the cache seen as [slots * kv heads, ...]."""
    keys: Tensor
    """[len(rows), the cache's last size]: where each layer gathers its keys. Memory handed back to the
    system after each layer would have to be mapped anew, page by page, by the next."""
    values: Tensor
    bias: Tensor | None
    """Added to the scores: 0 or minus infinity. Decodes: [num_seqs * num_kv_heads, 1, span]; a chunk:
    [num_queries, span], or None for a chunk that is a whole, plainly causal context."""


def _rows(cache: Tensor) -> Tensor:
    """[..., head_dim] as [rows, head_dim]; fp8 as bytes, which can be gathered."""
    cache = cache.view(torch.uint8) if cache.dtype == torch.float8_e4m3fn else cache
    return cache.view(-1, cache.shape[-1])


def _widened(part: _Part, rows: Tensor, scales: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Rows that were gathered for a part as what they stand for: [num_seqs * kv_heads, span, head_dim]."""
    heads = rows.view(part.num_heads, -1, rows.shape[-1])
    if heads.dtype == torch.int8:
        own_scales = heads[..., -CACHE_SCALE_BYTES:].contiguous().view(torch.float32)
        return heads[..., :-CACHE_SCALE_BYTES].to(dtype) * own_scales.to(dtype)
    heads = heads.to(dtype)
    if scales is None:
        return heads
    return heads * scales.to(dtype).repeat(part.num_heads // len(scales))[:, None, None]


def _attend_decodes(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor | None,
    scale: float,
    soft_cap: float,
    sinks: Tensor | None,
) -> Tensor:
    """q [num_seqs, kv_heads, group, head_dim], keys and values [num_seqs * kv_heads, span, head_dim].

    The query heads that share a key head are the rows of one small matrix product.
    """
    assert bias is not None
    rows = q.reshape(keys.shape[0], -1, q.shape[-1])
    if soft_cap > 0.0:
        scores = torch.bmm(rows, keys.mT).mul_(scale / soft_cap).tanh_().mul_(soft_cap).add_(bias)
    else:
        scores = torch.baddbmm(bias, rows, keys.mT, alpha=scale)
    if sinks is not None:
        sinks = sinks.repeat(q.shape[0], 1)
    return torch.bmm(_softmax(scores, sinks), values).view_as(q)


def _attend_chunk(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor | None,
    scale: float,
    soft_cap: float,
    sinks: Tensor | None,
) -> Tensor:
    """q [num_queries, kv_heads, group, head_dim], keys and values [kv_heads, span, head_dim]."""
    q = q.permute(1, 2, 0, 3)
    keys, values = (
        keys[:, None].expand(-1, q.shape[1], -1, -1),
        values[:, None].expand(-1, q.shape[1], -1, -1),
    )
    if soft_cap > 0.0 or sinks is not None:
        assert bias is not None
        scores = q @ keys.mT
        if soft_cap > 0.0:
            scores = scores.mul_(scale / soft_cap).tanh_().mul_(soft_cap).add_(bias)
        else:
            scores = scores.mul_(scale).add_(bias)
        attended = _softmax(scores, None if sinks is None else sinks[:, :, None]) @ values
    else:
        attended = functional.scaled_dot_product_attention(
            q, keys, values, attn_mask=bias, is_causal=bias is None, scale=scale
        )
    return attended.permute(2, 0, 1, 3)


def _softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Over the last dimension; exp(sink), one for each row, joins the denominator."""
    if sinks is None:
        return scores.softmax(dim=-1)
    with_sink = torch.cat([scores, sinks[..., None].expand(*scores.shape[:-1], 1)], dim=-1)
    return with_sink.softmax(dim=-1)[..., :-1]


def _make_plan(
    batch: AttentionBatch, key_cache: Tensor, window: int, needs_bias: bool, dtype: torch.dtype
) -> list[_Part]:
    """What to compute together, and for each part which cache rows to gather and which scores to hide."""
    device = batch.block_tables.device
    num_kv_heads, block_size, width = key_cache.shape[1:]
    contexts, starts = batch.context_lens.tolist(), batch.query_starts.tolist()

    def cache_rows(seqs: Tensor, positions: Tensor) -> Tensor:
        """Cache rows of positions [num_seqs, span] of some sequences, for every kv head."""
        blocks = batch.block_tables[seqs].gather(1, positions // block_size).long()
        heads = torch.arange(num_kv_heads, device=device)[:, None]
        rows = (blocks[:, None] * num_kv_heads + heads) * block_size + (positions % block_size)[:, None]
        return rows.flatten()

    def decodes(seqs: list[int]) -> _Part:
        members = torch.tensor(seqs, device=device)
        ends = torch.tensor([contexts[seq] for seq in seqs], device=device)[:, None]
        spans = ends.clamp(max=window) if window else ends
        steps = torch.arange(int(spans.max()), device=device)
        seen = steps < spans
        # Where a shorter context has nothing more to show, its own last token stands in, hidden.
        positions = torch.where(seen, ends - spans + steps, ends - 1)
        rows = cache_rows(members, positions)
        return _Part(
            num_heads=len(seqs) * num_kv_heads,
            is_decode=True,
            tokens=slice(len(seqs)) if len(seqs) == batch.num_decodes else members,
            rows=rows,
            keys=key_cache.new_empty(len(rows), width),
            values=key_cache.new_empty(len(rows), width),
            bias=_hide(~seen, dtype).repeat_interleave(num_kv_heads, dim=0)[:, None],
        )

    def chunk(seq: int) -> _Part:
        context, num_queries = contexts[seq], starts[seq + 1] - starts[seq]
        first = max(0, context - num_queries + 1 - window) if window else 0
        keys_at = torch.arange(first, context, device=device)
        bias: Tensor | None = None
        if needs_bias or num_queries < context or 0 < window < context:
            queries_at = torch.arange(context - num_queries, context, device=device)[:, None]
            hidden = keys_at > queries_at
            if window:
                hidden |= keys_at <= queries_at - window
            bias = _hide(hidden, dtype)
        rows = cache_rows(torch.tensor([seq], device=device), keys_at[None])
        return _Part(
            num_heads=num_kv_heads,
            is_decode=False,
            tokens=slice(starts[seq], starts[seq + 1]),
            rows=rows,
            keys=key_cache.new_empty(len(rows), width),
            values=key_cache.new_empty(len(rows), width),
            bias=bias,
        )

    queried = [seq for seq in range(len(contexts)) if starts[seq] < starts[seq + 1]]
    num_decodes = bisect_left(queried, batch.num_decodes)
    return [decodes(seqs) for seqs in _similar(contexts[:num_decodes])] + [
        chunk(seq) for seq in queried[num_decodes:]
    ]


def _hide(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """Minus infinity where `hidden`, 0 elsewhere."""
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -_INF)


def _similar(contexts: list[int]) -> list[list[int]]:
    """Sequence numbers in groups of which no context is more than twice another."""
    if not contexts:
        return []
    if max(contexts) <= 2 * min(contexts):
        return [list(range(len(contexts)))]
    groups: list[list[int]] = []
    for seq in sorted(range(len(contexts)), key=lambda seq: -contexts[seq]):
        if not groups or contexts[groups[-1][0]] > 2 * contexts[seq]:
            groups.append([])
        groups[-1].append(seq)
    return groups
