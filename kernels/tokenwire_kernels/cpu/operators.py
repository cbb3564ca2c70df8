"""The operators of `reference/`, computed by the native library."""

from __future__ import annotations

from ctypes import byref

import torch
from torch import Tensor
from torch.nn import functional

from tokenwire_kernels.batch import (
    CACHE_SCALE_BYTES,
    AttentionBatch,
    HeadNorms,
    LayerCache,
    RowNorm,
    SamplingBatch,
)
from tokenwire_kernels.cpu import library as native
from tokenwire_kernels.cpu.library import Context
from tokenwire_kernels.reference import attention as reference_attention
from tokenwire_kernels.reference import blocks, decode, logprobs, norm_quantize, penalties
from tokenwire_kernels.reference.random import row_keys


class Operators:
    """See the function of the same name under `reference/` for each. Tensors are in host memory."""

    # A host lays its batches out itself: the steps of a graph are taken here in tests only.
    advance_decodes = staticmethod(decode.advance_decodes)
    gather_block_tables = staticmethod(decode.gather_block_tables)
    record_tokens = staticmethod(decode.record_tokens)
    rms_norm_quantize = staticmethod(norm_quantize.rms_norm_quantize)
    score_tokens = staticmethod(logprobs.score_tokens)
    apply_penalties = staticmethod(penalties.apply_penalties)
    copy_blocks = staticmethod(blocks.copy_blocks)
    gather_blocks = staticmethod(blocks.gather_blocks)
    scatter_blocks = staticmethod(blocks.scatter_blocks)

    def __init__(self, context: Context) -> None:
        self.context = context
        self._library, self._handle = context.library, context.handle

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `reference.norm.rms_norm`. Rows may be apart, as the heads in one part of a fused qkv are."""
        out = torch.empty(x.shape, dtype=x.dtype)
        rows = x if x.dim() == 3 and x.stride(-1) == 1 else x.reshape(-1, 1, x.shape[-1])
        self._norm(rows, None, weight, out, eps)
        return out

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `reference.norm.add_rms_norm`. Both inputs are contiguous."""
        out = torch.empty_like(x)
        self._norm(x.view(-1, 1, x.shape[-1]), residual, weight, out, eps)
        return out

    def _norm(self, rows: Tensor, residual: Tensor | None, weight: Tensor, out: Tensor, eps: float) -> None:
        """rows [outer, inner, hidden]; residual and out contiguous, [outer * inner, hidden]."""
        outer, inner, hidden = rows.shape
        self._library.tw_rms_norm(
            self._handle,
            rows.data_ptr(),
            None if residual is None else residual.data_ptr(),
            weight.data_ptr(),
            out.data_ptr(),
            outer,
            inner,
            hidden,
            rows.stride(0),
            rows.stride(1),
            eps,
            native.DTYPES[rows.dtype],
        )

    def silu_and_mul(self, gate_up: Tensor) -> Tensor:
        """See `reference.activation.silu_and_mul`."""
        num_tokens, columns = gate_up.shape
        out = gate_up.new_empty(num_tokens, columns // 2)
        self._library.tw_silu_and_mul(
            self._handle,
            gate_up.data_ptr(),
            out.data_ptr(),
            num_tokens,
            columns // 2,
            gate_up.stride(0),
            native.DTYPES[gate_up.dtype],
        )
        return out

    def linear(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        norm: RowNorm | None = None,
        is_gated: bool = False,
        residual: Tensor | None = None,
    ) -> Tensor:
        """See `reference.linear.linear`. The matrix is as it came: models on a CPU have theirs packed
        (`cpu/matrix.py`), and a pass of their own."""
        if norm is not None:
            x = self.rms_norm(x, norm.weight, norm.eps)
        y = functional.linear(x, weight, bias)
        if is_gated:
            y = self.silu_and_mul(y)
        return y if residual is None else residual.add_(y)

    def rotary_and_cache(
        self,
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
        """See `reference.rotary.rotary_and_cache`. The cache may be of any dtype but fp8."""
        if norms is not None:
            q.copy_(self.rms_norm(q, norms.q_weight, norms.eps))
            k = self.rms_norm(k, norms.k_weight, norms.eps)
        num_tokens, num_heads, _ = q.shape
        rotary = native.Rotary(
            q.data_ptr(),
            k.data_ptr(),
            v.data_ptr(),
            *(stride for part in (q, k, v) for stride in part.stride()[:2]),
            num_tokens,
            num_heads,
            cos.shape[-1],
            cos.data_ptr(),
            sin.data_ptr(),
            positions.data_ptr(),
            slots.data_ptr(),
            None,
            None,
            0.0,
            native.DTYPES[q.dtype],
            native.Cache(cache.keys.data_ptr(), cache.values.data_ptr()),
            cache_shape(cache.keys),
        )
        self._library.tw_rotary_and_cache(self._handle, byref(rotary))

    def paged_attention(
        self,
        q: Tensor,
        cache: LayerCache,
        batch: AttentionBatch,
        scale: float,
        window: int = 0,
        soft_cap: float = 0.0,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """See `reference.attention.paged_attention`. The cache may be of any dtype but fp8. Sinks, which no
        architecture that runs on a CPU has, are left to the reference."""
        if sinks is not None:
            return reference_attention.paged_attention(q, cache, batch, scale, window, soft_cap, sinks)
        num_tokens, num_heads, head_dim = q.shape
        out = q.new_empty(num_tokens, num_heads, head_dim)
        attention = native.Attention(
            q.data_ptr(),
            *q.stride()[:2],
            out.data_ptr(),
            num_heads,
            native.DTYPES[q.dtype],
            scale,
            soft_cap,
            0,
            window,
            native.Cache(cache.keys.data_ptr(), cache.values.data_ptr()),
            cache_shape(cache.keys),
            sequences_of(batch, num_tokens),
        )
        self._library.tw_paged_attention(self._handle, byref(attention))
        return out

    def greedy(self, logits: Tensor) -> Tensor:
        """See `reference.sampling.greedy`."""
        logits = logits if logits.stride(-1) == 1 else logits.contiguous()
        num_rows, vocab_size = logits.shape
        tokens = torch.empty(num_rows, dtype=torch.int64)
        self._library.tw_greedy(
            self._handle,
            logits.data_ptr(),
            native.DTYPES[logits.dtype],
            num_rows,
            vocab_size,
            logits.stride(0),
            tokens.data_ptr(),
        )
        return tokens

    def apply_token_bitmask(self, logits: Tensor, bitmask: Tensor, rows: Tensor) -> None:
        """See `reference.bitmask.apply_token_bitmask`. Each row of logits is contiguous."""
        bitmask, rows = bitmask.contiguous(), rows.contiguous()
        self._library.tw_apply_bitmask(
            self._handle,
            logits.data_ptr(),
            native.DTYPES[logits.dtype],
            logits.shape[1],
            logits.stride(0),
            bitmask.data_ptr(),
            bitmask.shape[1],
            rows.data_ptr(),
            len(rows),
        )

    def sample(self, logits: Tensor, batch: SamplingBatch) -> Tensor:
        """See `reference.sampling.sample`."""
        if batch.all_greedy:
            return self.greedy(logits)
        logits = logits.contiguous()
        num_rows, vocab_size = logits.shape
        keys = row_keys(batch.seeds, batch.sample_indices, batch.positions)
        columns = [batch.temperatures, batch.top_k, batch.top_p, batch.min_p, batch.typical_p, keys]
        columns = [None if column is None else column.contiguous() for column in columns]
        tokens = torch.empty(num_rows, dtype=torch.int64)
        addresses = (None if column is None else column.data_ptr() for column in columns)
        sampling = native.Sampling(*addresses, num_rows, vocab_size)
        self._library.tw_sample(self._handle, logits.data_ptr(), byref(sampling), tokens.data_ptr())
        return tokens


def cache_shape(cache: Tensor) -> native.CacheShape:
    """Of a `LayerCache`'s keys, or values."""
    _, num_kv_heads, block_size, row = cache.shape
    head_dim = row - CACHE_SCALE_BYTES if cache.dtype == torch.int8 else row
    return native.CacheShape(num_kv_heads, block_size, head_dim, native.CACHE_DTYPES[cache.dtype], 0)


def sequences_of(batch: AttentionBatch, num_tokens: int) -> native.Sequences:
    """The batch's tensors as the library takes them; they must outlive the call."""
    return native.Sequences(
        batch.block_tables.data_ptr(),
        batch.block_tables.stride(0),
        batch.query_starts.data_ptr(),
        batch.context_lens.data_ptr(),
        len(batch.context_lens),
        num_tokens,
    )
