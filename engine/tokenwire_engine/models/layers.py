"""A decoder's layers one after the other, or all in one launch where the GPU has a kernel for them.

The latter is for steps of few decodes, which wait for nothing but the weights, so that what counts is that
the memory never rests. Every other step goes through the layers' own operators, and all do once the kernel
did not compile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from tokenwire_engine.layers.attention import Attention
from tokenwire_engine.layers.matmul import PlainLinear
from tokenwire_engine.layers.mlp import MLP
from tokenwire_engine.layers.rotary import RotaryTable
from tokenwire_engine.models.architecture import Architecture
from tokenwire_engine.models.batch import ForwardBatch
from tokenwire_kernels import FusedLayers, Kernels, LayerCache, LayersShape, LayerWeights
from tokenwire_kernels.fallback import Fallback

Layers = Callable[[Tensor, ForwardBatch, Sequence[LayerCache]], None]
"""Takes the residual stream `[num_tokens, hidden_size]` through all layers, in place, and writes keys and
values into the caches, one for each layer."""


@dataclass(slots=True, frozen=True)
class DecoderLayer:
    """Attention and MLP, each behind its normalization."""

    attention: Attention
    mlp: MLP


@dataclass(slots=True, frozen=True)
class LayersInTurn:
    """Each layer's operators. See `Layers`."""

    layers: Sequence[DecoderLayer]
    rotary: RotaryTable

    def __call__(self, residual: Tensor, batch: ForwardBatch, caches: Sequence[LayerCache]) -> None:
        for layer, cache in zip(self.layers, caches, strict=True):
            layer.attention(residual, batch, self.rotary, cache)
            layer.mlp(residual)


@dataclass(slots=True, frozen=True)
class LayersTogether:
    """One operator for what it takes, and the layers in turn for the rest. See `Layers`."""

    fused: FusedLayers
    in_turn: LayersInTurn

    def __call__(self, residual: Tensor, batch: ForwardBatch, caches: Sequence[LayerCache]) -> None:
        (view,) = batch.views
        if self.fused.takes(view.attention, caches[0], len(residual)):
            self.fused(residual, view.attention, view.cache_slots, caches)
        else:
            self.in_turn(residual, batch, caches)


def join_layers(
    layers: Sequence[DecoderLayer], architecture: Architecture, rotary: RotaryTable, kernels: Kernels
) -> Layers:
    """The fastest way through a model's layers that the device has."""
    in_turn = LayersInTurn(layers, rotary)
    weights = [_weights_of(layer) for layer in layers]
    has_one_window = len(architecture.kv_groups) == 1 and len(set(architecture.windows)) == 1
    if (
        kernels.fuse_layers is None
        or None in weights
        or not has_one_window
        or architecture.attention_soft_cap
    ):
        return in_turn
    shape = LayersShape(
        hidden=architecture.hidden_size,
        inner=architecture.intermediate_size,
        num_heads=architecture.num_heads,
        num_kv_heads=architecture.num_kv_heads,
        head_dim=architecture.head_dim,
        eps=architecture.norm_eps,
        scale=architecture.attention_scale,
        window=architecture.windows[0],
    )
    fused = kernels.fuse_layers([layer for layer in weights if layer], shape, rotary.cos, rotary.sin)
    return in_turn if fused is None else Fallback("layers", LayersTogether(fused, in_turn), in_turn)


def _weights_of(layer: DecoderLayer) -> LayerWeights | None:
    """None where a matrix is kept in another form, or divided over ranks."""
    attention, mlp = layer.attention, layer.mlp
    qkv, o, gate_up, down = attention.qkv, attention.o.partial, mlp.gate_up, mlp.down.partial
    if attention.o.shard.size > 1 or not (
        isinstance(qkv, PlainLinear)
        and isinstance(o, PlainLinear)
        and isinstance(gate_up, PlainLinear)
        and isinstance(down, PlainLinear)
    ):
        return None
    return LayerWeights(
        attention_norm=attention.norm,
        qkv=qkv.weight,
        qkv_bias=qkv.bias,
        head_norms=attention.head_norms,
        o=o.weight,
        o_bias=o.bias,
        mlp_norm=mlp.norm,
        gate_up=gate_up.weight,
        gate_up_bias=gate_up.bias,
        down=down.weight,
        down_bias=down.bias,
    )
