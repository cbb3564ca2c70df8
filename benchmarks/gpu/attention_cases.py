"""The shapes of attention that are measured: decodes in batches over short and long pasts, and prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.gpu.case import Case
from benchmarks.gpu.models import takes_fp8
from benchmarks.gpu.peers import AttentionShape, attention_peers, flex_attention_peer
from benchmarks.gpu.section import Context
from tokenwire_kernels import AttentionBatch, Kernels, LayerCache

BLOCK_SIZE = 16


def cases(context: Context, kernels: Kernels) -> Iterator[Case]:
    """Decodes first; those with a cache of fp8 last."""
    if context.quick:
        decodes, prompts, heads = [(1, 20), (3, 40)], [(1, 24, 24)], [(4, 2, 16)]
        of_fp8 = [(3, 1, 40)]
    else:
        decodes = [(1, 1024), (1, 8192), (8, 8192), (32, 1024), (32, 8192), (128, 1024), (256, 1024)]
        prompts = [(1, 2048, 2048), (1, 8192, 8192), (4, 512, 4096)]
        heads = [(32, 8, 128), (32, 8, 64)]
        of_fp8 = [(32, 1, 8192), (256, 1, 1024), (1, 8192, 8192)]
    for sizes in heads:
        shapes = [(num_seqs, 1, past) for num_seqs, past in decodes] + prompts
        for num_seqs, queries, past in shapes:
            yield _case(AttentionShape(num_seqs, queries, past, *sizes, BLOCK_SIZE, context.device), kernels)
    if takes_fp8(context.device):
        for num_seqs, queries, past in of_fp8:
            shape = AttentionShape(
                num_seqs, queries, past, *heads[0], BLOCK_SIZE, context.device, torch.float8_e4m3fn
            )
            yield _case(shape, kernels)


def beside_flex_attention(context: Context, kernels: Kernels) -> Case:
    """One whole prompt."""
    heads, queries = ((4, 2, 16), 24) if context.quick else ((32, 8, 128), 8192)
    shape = AttentionShape(1, queries, queries, *heads, BLOCK_SIZE, context.device)
    case = _case(shape, kernels)
    case.peers = [] if context.quick else [flex_attention_peer(shape)]
    return case


def _case(shape: AttentionShape, kernels: Kernels) -> Case:
    cached = shape.num_seqs * shape.context * shape.num_kv_heads * shape.head_dim
    asked = shape.num_seqs * shape.num_queries * shape.num_heads * shape.head_dim
    # Query i of n sees context - n + i + 1 tokens; a score and a weighted value are 2 operations a number.
    seen = shape.num_queries * (2 * shape.context - shape.num_queries + 1) // 2
    flops = 4 * shape.num_seqs * seen * shape.num_heads * shape.head_dim if shape.num_queries > 1 else 0
    name = "decode" if shape.num_queries == 1 else f"{shape.num_queries} queries"
    heads = f"{shape.num_heads} heads of {shape.head_dim} over {shape.num_kv_heads}"
    stored = ", fp8 cache" if shape.cache_dtype.itemsize == 1 else ""
    return Case(
        "paged_attention",
        f"{name}, {shape.num_seqs} x {shape.context}, {heads}{stored}",
        2 * cached * shape.cache_dtype.itemsize + 2 * asked * torch.bfloat16.itemsize,
        lambda: attention_call(shape, kernels),
        flops,
        attention_peers(shape),
    )


def attention_call(shape: AttentionShape, kernels: Kernels) -> Callable[[], Tensor]:
    """On inputs of its own."""
    device, blocks = shape.device, shape.num_seqs * shape.blocks_per_seq
    keys, values = (
        shape.cache(blocks, shape.num_kv_heads, shape.block_size, shape.head_dim) for _ in range(2)
    )
    scales = torch.ones(shape.num_kv_heads, device=device) if shape.cache_dtype.itemsize == 1 else None
    cache = LayerCache(keys, values, scales, scales)
    q = shape.randn(shape.num_seqs * shape.num_queries, shape.num_heads, shape.head_dim)
    starts = torch.arange(shape.num_seqs + 1, dtype=torch.int32, device=device) * shape.num_queries
    batch = AttentionBatch(
        block_tables=shape.block_tables(),
        query_starts=starts,
        context_lens=torch.full((shape.num_seqs,), shape.context, dtype=torch.int32, device=device),
        max_query_len=shape.num_queries,
        max_context_len=shape.context,
        num_decodes=shape.num_seqs if shape.num_queries == 1 else 0,
    )
    return lambda: kernels.paged_attention(q, cache, batch, shape.scale)
