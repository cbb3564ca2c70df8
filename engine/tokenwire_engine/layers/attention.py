"""Self-attention over the paged KV cache, with grouped queries.

The rotation of queries and keys and the write of keys and values into the cache are one kernel, so that
attention itself reads nothing but the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tokenwire_engine.distributed.shard import Shard
from tokenwire_engine.layers.linear import RowParallelLinear, load_column_parallel, load_row_parallel
from tokenwire_engine.layers.matmul import Linear
from tokenwire_engine.layers.norm import RMSNorm, load_norm
from tokenwire_engine.layers.rotary import RotaryTable
from tokenwire_engine.models.architecture import Architecture
from tokenwire_engine.models.batch import ForwardBatch, LayerCache
from tokenwire_engine.weights.reader import WeightReader
from tokenwire_kernels import Kernels


@dataclass(slots=True, frozen=True)
class Attention:
    """One layer's attention: project, rotate and cache, attend, project back."""

    qkv: Linear
    o: RowParallelLinear
    q_norm: RMSNorm | None
    k_norm: RMSNorm | None
    num_heads: int
    """Of this rank, as is `num_kv_heads`."""
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int
    soft_cap: float
    kernels: Kernels

    def __call__(self, x: Tensor, batch: ForwardBatch, rotary: RotaryTable, cache: LayerCache) -> Tensor:
        """`[num_tokens, hidden_size]` to the same."""
        num_tokens = len(x)
        heads = self.qkv(x).view(num_tokens, -1, self.head_dim)
        q = heads[:, : self.num_heads]
        k = heads[:, self.num_heads : self.num_heads + self.num_kv_heads]
        v = heads[:, self.num_heads + self.num_kv_heads :]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        self.kernels.rotary_and_cache(
            q, k, v, rotary.cos, rotary.sin, batch.positions, cache.keys, cache.values, batch.cache_slots
        )
        attended = self.kernels.paged_attention(
            q, cache.keys, cache.values, batch.attention, self.scale, self.window, self.soft_cap
        )
        return self.o(attended.reshape(num_tokens, -1))


def load_attention(
    reader: WeightReader, shard: Shard, architecture: Architecture, layer: int, kernels: Kernels
) -> Attention:
    names = architecture.names
    prefix = names.layer.format(layer)
    head_dim, eps = architecture.head_dim, architecture.norm_eps
    qk_norm = architecture.qk_norm
    return Attention(
        qkv=load_column_parallel(
            reader,
            shard,
            [prefix + names.q, prefix + names.k, prefix + names.v],
            [architecture.q_size, architecture.kv_size, architecture.kv_size],
            architecture.hidden_size,
            bias=architecture.qkv_bias,
        ),
        o=load_row_parallel(
            reader,
            shard,
            prefix + names.o,
            architecture.hidden_size,
            architecture.q_size,
            bias=architecture.o_bias,
        ),
        q_norm=load_norm(reader, prefix + names.q_norm, head_dim, eps, kernels) if qk_norm else None,
        k_norm=load_norm(reader, prefix + names.k_norm, head_dim, eps, kernels) if qk_norm else None,
        num_heads=shard.count(architecture.num_heads, "attention heads"),
        num_kv_heads=shard.count(architecture.num_kv_heads, "KV heads"),
        head_dim=head_dim,
        scale=architecture.attention_scale,
        window=architecture.windows[layer],
        soft_cap=architecture.attention_soft_cap,
        kernels=kernels,
    )
