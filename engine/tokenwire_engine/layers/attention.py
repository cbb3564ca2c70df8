"""Self-attention over the paged KV cache, with grouped queries.

The normalization and rotation of queries and keys and the write of keys and values into the cache are one
kernel, so that attention itself reads nothing but the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tokenwire_engine.distributed.shard import Shard
from tokenwire_engine.layers.linear import RowParallelLinear, load_column_parallel, load_row_parallel
from tokenwire_engine.layers.matmul import Linear
from tokenwire_engine.layers.norm import load_norm
from tokenwire_engine.layers.rotary import RotaryTable
from tokenwire_engine.models.architecture import Architecture
from tokenwire_engine.models.batch import ForwardBatch
from tokenwire_engine.weights.reader import Piece, WeightReader
from tokenwire_kernels import HeadNorms, Kernels, LayerCache, RowNorm


@dataclass(slots=True, frozen=True)
class Attention:
    """One layer's attention: normalize and project, rotate and cache, attend, project back."""

    norm: RowNorm
    qkv: Linear
    o: RowParallelLinear
    head_norms: HeadNorms | None
    num_heads: int
    """Of this rank, as is `num_kv_heads`."""
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int
    group: int
    """Of layers that share block tables."""
    soft_cap: float
    kernels: Kernels

    def __call__(self, residual: Tensor, batch: ForwardBatch, rotary: RotaryTable, cache: LayerCache) -> None:
        """Add to the residual stream `[num_tokens, hidden_size]` what it computes from it."""
        num_tokens, view = len(residual), batch.views[self.group]
        heads = self.qkv(residual, norm=self.norm).view(num_tokens, -1, self.head_dim)
        q, k, v = heads.split_with_sizes([self.num_heads, self.num_kv_heads, self.num_kv_heads], dim=1)
        self.kernels.rotary_and_cache(
            q, k, v, rotary.cos, rotary.sin, batch.positions, cache, view.cache_slots, self.head_norms
        )
        attended = self.kernels.paged_attention(
            q, cache, view.attention, self.scale, self.window, self.soft_cap
        )
        self.o.add(attended.view(num_tokens, -1), residual)


def load_attention(
    reader: WeightReader, shard: Shard, architecture: Architecture, layer: int, kernels: Kernels
) -> Attention:
    """One layer's attention, as far as it is this rank's.

    Raises:
        ModelError: a tensor is missing or has the wrong shape or dtype, or the heads cannot be divided.
    """
    names = architecture.names
    prefix = names.layer.format(layer)
    attention_norm = prefix + names.attention_norm
    return Attention(
        norm=load_norm(reader, attention_norm, architecture.hidden_size, architecture.norm_eps),
        qkv=load_column_parallel(
            reader,
            shard,
            [prefix + names.q, prefix + names.k, prefix + names.v],
            [architecture.q_size, architecture.kv_size, architecture.kv_size],
            architecture.hidden_size,
            bias=architecture.qkv_bias,
            kernels=kernels,
        ),
        o=load_row_parallel(
            reader,
            shard,
            prefix + names.o,
            architecture.hidden_size,
            architecture.q_size,
            bias=architecture.o_bias,
            kernels=kernels,
        ),
        head_norms=_load_head_norms(reader, prefix, architecture) if architecture.qk_norm else None,
        num_heads=shard.count(architecture.num_heads, "attention heads"),
        num_kv_heads=shard.count(architecture.num_kv_heads, "KV heads"),
        head_dim=architecture.head_dim,
        scale=architecture.attention_scale,
        window=architecture.windows[layer],
        group=architecture.kv_group(layer),
        soft_cap=architecture.attention_soft_cap,
        kernels=kernels,
    )


def _load_head_norms(reader: WeightReader, prefix: str, architecture: Architecture) -> HeadNorms:
    names, shape = architecture.names, (architecture.head_dim,)
    return HeadNorms(
        q_weight=reader.read(Piece(f"{prefix}{names.q_norm}.weight", shape)),
        k_weight=reader.read(Piece(f"{prefix}{names.k_norm}.weight", shape)),
        eps=architecture.norm_eps,
    )
