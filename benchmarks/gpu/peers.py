"""What others compute attention with, each on inputs in the layout that it wants.

None of them is a dependency: one that cannot be imported, or refuses the shape, is named in the report with
its reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu.timing import Call


@dataclass(slots=True, frozen=True)
class Peer:
    """Another implementation of the same operator at the same shape."""

    name: str
    make: Callable[[], Call]
    """A call on inputs of its own. Raises whatever the library does where it cannot."""

    def calls(self, count: int) -> list[Call]:
        """So many of them."""
        return [self.make() for _ in range(count)]


@dataclass(slots=True, frozen=True)
class AttentionShape:
    """Sequences that all have as many queries and the same context."""

    num_seqs: int
    num_queries: int
    context: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    device: torch.device
    cache_dtype: torch.dtype = torch.bfloat16

    @property
    def scale(self) -> float:
        return 1 / math.sqrt(self.head_dim)

    @property
    def blocks_per_seq(self) -> int:
        return -(-self.context // self.block_size)

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.device, dtype=torch.bfloat16)

    def cache(self, *shape: int) -> Tensor:
        """Random keys or values, in the cache's format."""
        return self.randn(*shape).to(self.cache_dtype)

    def block_tables(self) -> Tensor:
        """int32 [num_seqs, blocks_per_seq]: every block once, in random order."""
        count = self.num_seqs * self.blocks_per_seq
        blocks = torch.randperm(count, device=self.device, dtype=torch.int32)
        return blocks.view(self.num_seqs, self.blocks_per_seq)


def attention_peers(shape: AttentionShape) -> list[Peer]:
    """All that there are for a shape."""
    vllm = Peer("vLLM Triton", lambda: _vllm(shape))
    is_decode = shape.num_queries == 1
    if shape.cache_dtype.itemsize == 1:
        return [Peer("FlashInfer", lambda: _flashinfer_decode(shape)), vllm] if is_decode else [vllm]
    flashinfer = _flashinfer_decode if is_decode else _flashinfer_prefill
    peers = [Peer("FlashInfer", lambda: flashinfer(shape)), vllm]
    if is_decode or shape.num_queries == shape.context:  # SDPA's mask of a later chunk is another one
        peers.insert(0, Peer("SDPA", lambda: _sdpa(shape)))
    return peers


def flex_attention_peer(shape: AttentionShape) -> Peer:
    """It compiles anew for every shape."""
    return Peer("FlexAttention", lambda: _flex_attention(shape))


def _sdpa(shape: AttentionShape) -> Call:
    """PyTorch's own, on keys and values that lie one after the other: it has no paged cache."""
    q = shape.randn(shape.num_seqs, shape.num_heads, shape.num_queries, shape.head_dim)
    k, v = (shape.randn(shape.num_seqs, shape.num_kv_heads, shape.context, shape.head_dim) for _ in range(2))
    is_causal = shape.num_queries > 1
    return lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=True)


def _flex_attention(shape: AttentionShape) -> Call:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q = shape.randn(shape.num_seqs, shape.num_heads, shape.num_queries, shape.head_dim)
    k, v = (shape.randn(shape.num_seqs, shape.num_kv_heads, shape.context, shape.head_dim) for _ in range(2))
    size = shape.context
    causal = create_block_mask(
        lambda batch, head, query, key: query >= key, None, None, size, size, device=str(shape.device)
    )
    compiled = torch.compile(flex_attention)
    return lambda: compiled(q, k, v, block_mask=causal, enable_gqa=True)


def _flashinfer_decode(shape: AttentionShape) -> Call:
    import flashinfer

    workspace = torch.empty(128 << 20, dtype=torch.uint8, device=shape.device)
    decode = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "HND")
    tables, starts, last = _pages(shape)
    decode.plan(
        starts, tables, last, shape.num_heads, shape.num_kv_heads, shape.head_dim, shape.block_size,
        q_data_type=torch.bfloat16, kv_data_type=shape.cache_dtype,
    )  # fmt: skip
    q = shape.randn(shape.num_seqs, shape.num_heads, shape.head_dim)
    cache = _cache(shape)
    return lambda: decode.run(q, cache)


def _flashinfer_prefill(shape: AttentionShape) -> Call:
    import flashinfer

    workspace = torch.empty(128 << 20, dtype=torch.uint8, device=shape.device)
    prefill = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "HND")
    tables, starts, last = _pages(shape)
    queries = torch.arange(shape.num_seqs + 1, dtype=torch.int32, device=shape.device) * shape.num_queries
    prefill.plan(
        queries, starts, tables, last, shape.num_heads, shape.num_kv_heads, shape.head_dim, shape.block_size,
        causal=True, q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16,
    )  # fmt: skip
    q = shape.randn(shape.num_seqs * shape.num_queries, shape.num_heads, shape.head_dim)
    cache = _cache(shape)
    return lambda: prefill.run(q, cache)


def _vllm(shape: AttentionShape) -> Call:
    from vllm.v1.attention.ops.triton_unified_attention import unified_attention

    count = shape.num_seqs * shape.num_queries
    q = shape.randn(count, shape.num_heads, shape.head_dim)
    out = torch.empty_like(q)
    pages = shape.num_seqs * shape.blocks_per_seq
    k, v = (shape.cache(pages, shape.block_size, shape.num_kv_heads, shape.head_dim) for _ in range(2))
    starts = torch.arange(shape.num_seqs + 1, dtype=torch.int32, device=shape.device) * shape.num_queries
    contexts = torch.full((shape.num_seqs,), shape.context, dtype=torch.int32, device=shape.device)
    tables = shape.block_tables()
    ones = torch.ones(shape.num_seqs, shape.num_kv_heads, device=shape.device)
    # As vLLM's backend does: few decodes are cut into segments, many are not.
    most_cut, segments = 128 // shape.num_kv_heads, 16
    sums = torch.empty(most_cut, shape.num_heads, segments, device=shape.device)
    outputs = sums.new_empty(*sums.shape, 1 << (shape.head_dim - 1).bit_length())
    return lambda: unified_attention(
        q=q, k=k, v=v, out=out, cu_seqlens_q=starts, max_seqlen_q=shape.num_queries, seqused_k=contexts,
        max_seqlen_k=shape.context, softmax_scale=shape.scale, causal=True, window_size=(-1, -1),
        block_table=tables, softcap=0.0, q_descale=None, k_descale=ones, v_descale=ones,
        seq_threshold_3D=most_cut, num_par_softmax_segments=segments, softmax_segm_output=outputs,
        softmax_segm_max=sums, softmax_segm_expsum=torch.empty_like(sums),
    )  # fmt: skip


def _cache(shape: AttentionShape) -> tuple[Tensor, Tensor]:
    pages = shape.num_seqs * shape.blocks_per_seq
    keys, values = (
        shape.cache(pages, shape.num_kv_heads, shape.block_size, shape.head_dim) for _ in range(2)
    )
    return keys, values


def _pages(shape: AttentionShape) -> tuple[Tensor, Tensor, Tensor]:
    """Page numbers one after the other, where each sequence's begin, and the tokens in its last page."""
    starts = torch.arange(shape.num_seqs + 1, dtype=torch.int32, device=shape.device) * shape.blocks_per_seq
    last = (shape.context - 1) % shape.block_size + 1
    return (
        shape.block_tables().flatten(),
        starts,
        torch.full((shape.num_seqs,), last, dtype=torch.int32, device=shape.device),
    )
