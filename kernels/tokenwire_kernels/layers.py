"""A decoder's layers as one operator: what an implementation is given, and what it does with a step.

There is one where a step of few tokens is so short that it would wait for launches of the operators apart. It
computes what they do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from tokenwire_kernels.batch import AttentionBatch, HeadNorms, LayerCache, RowNorm


@dataclass(slots=True, frozen=True)
class LayerWeights:
    """What one layer multiplies with. Matrices are [outputs, inputs], contiguous, all of one 16-bit dtype."""

    attention_norm: RowNorm
    qkv: Tensor
    qkv_bias: Tensor | None
    head_norms: HeadNorms | None
    o: Tensor
    o_bias: Tensor | None
    mlp_norm: RowNorm
    gate_up: Tensor
    """The gate's rows, then up's."""
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


@dataclass(slots=True, frozen=True)
class LayersShape:
    """What all layers have in common."""

    hidden: int
    inner: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float
    """Of every norm."""
    scale: float
    """Multiplies attention scores."""
    window: int
    """Tokens that attention sees, the current one included; 0: all."""

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.num_heads // self.num_kv_heads

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def qkv_size(self) -> int:
        return self.q_size + 2 * self.num_kv_heads * self.head_dim


class FusedLayers(Protocol):
    """All layers of a decoder."""

    def takes(self, batch: AttentionBatch, cache: LayerCache, num_tokens: int) -> bool:
        """Whether a step may be given to it.

        Args:
            cache: of any of the layers.
        """

    def __call__(
        self, residual: Tensor, batch: AttentionBatch, cache_slots: Tensor, caches: Sequence[LayerCache]
    ) -> None:
        """Take the residual stream through all layers, and write keys and values.

        Args:
            residual: [num_tokens, hidden], contiguous; updated.
            batch: what `takes` accepts.
            cache_slots: int64 [num_tokens]: block * block_size + offset; -1: nowhere.
            caches: one for each layer.
        """


FuseLayers = Callable[[Sequence[LayerWeights], LayersShape, Tensor, Tensor], FusedLayers | None]
"""Layers, and cosines and sines, float32 [positions, head_dim / 2], as one operator; None: not these."""
