"""A dense decoder, described as data.

A family (Llama, Qwen3, ...) is a function from a checkpoint's config.json to an `Architecture`; the decoder
is assembled from that and nothing else, so that no layer ever asks which family it belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenwire_engine.kv_cache.groups import LayerGroup, group_layers


@dataclass(slots=True, frozen=True)
class LinearScaling:
    """Every frequency divided by `factor` (position interpolation, Chen et al. 2023)."""

    factor: float


@dataclass(slots=True, frozen=True)
class DynamicScaling:
    """NTK-aware scaling: beyond the trained length the base grows with the position."""

    factor: float


@dataclass(slots=True, frozen=True)
class Llama3Scaling:
    """Llama 3.1: low frequencies divided by `factor`, high ones kept, a smooth ramp between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(slots=True, frozen=True)
class YarnScaling:
    """YaRN (Peng et al. 2023): a ramp over dimensions, and cos/sin multiplied by `attention_factor`."""

    factor: float
    original_max_positions: int
    attention_factor: float
    beta_fast: float
    beta_slow: float
    truncate: bool
    """Whether the ramp's ends are rounded outwards to whole dimensions."""


Scaling = LinearScaling | DynamicScaling | Llama3Scaling | YarnScaling


@dataclass(slots=True, frozen=True)
class Rotary:
    """Rotary position embedding over the whole head dimension (Su et al. 2021)."""

    theta: float
    max_positions: int
    """`max_position_embeddings`: the trained length, before a linear or dynamic scaling extends it."""
    scaling: Scaling | None = None

    @property
    def context_length(self) -> int:
        """Positions that the model is meant for, scaling included."""
        match self.scaling:
            case LinearScaling(factor=factor) | DynamicScaling(factor=factor):
                return int(self.max_positions * factor)
            case YarnScaling(factor=factor, original_max_positions=original):
                return max(self.max_positions, int(original * factor))
            case _:
                return self.max_positions


@dataclass(slots=True, frozen=True)
class ParameterNames:
    """What a checkpoint calls each parameter, without the trailing ".weight" or ".bias".

    The defaults are Llama's, which most families share. `layer` is a prefix with one place for the index.
    """

    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    lm_head: str = "lm_head"
    layer: str = "model.layers.{}."
    attention_norm: str = "input_layernorm"
    q: str = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: str = "self_attn.v_proj"
    o: str = "self_attn.o_proj"
    q_norm: str = "self_attn.q_norm"
    k_norm: str = "self_attn.k_norm"
    mlp_norm: str = "post_attention_layernorm"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"


@dataclass(slots=True, frozen=True)
class Architecture:
    """Everything that distinguishes one pre-norm, gated-MLP decoder from another."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rotary: Rotary
    attention_scale: float
    """Multiplies the attention scores, usually head_dim ** -0.5."""
    windows: tuple[int, ...]
    """Tokens that each layer's attention sees, the current one included; 0 sees all."""
    tied_embeddings: bool
    """Whether the output projection is the embedding matrix."""
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    attention_soft_cap: float = 0.0
    """s > 0 replaces attention scores x by s * tanh(x / s)."""
    qk_norm: bool = False
    """Whether each query and key head is RMS-normalized before the rotation."""
    names: ParameterNames = ParameterNames()

    @property
    def kv_groups(self) -> tuple[LayerGroup, ...]:
        """Which layers share a block table."""
        return group_layers(self.windows)

    def kv_group(self, layer: int) -> int:
        """The index of a layer's group."""
        return next(index for index, group in enumerate(self.kv_groups) if layer in group.layers)

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim
