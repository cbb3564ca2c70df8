"""What the families have in common: the fields that every one of them names alike.

A family passes what it adds; it never has to undo anything that is set here.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenwire_engine.models.architecture import Architecture
from tokenwire_engine.models.config_file import ConfigFile
from tokenwire_engine.models.errors import ModelError


def dense_decoder(
    config: ConfigFile,
    *,
    num_kv_heads: int,
    max_positions: int,
    windows: Sequence[int],
    head_dim: int | None = None,
    qkv_bias: bool = False,
    o_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
) -> Architecture:
    """A decoder with RMSNorm, rotary embedding and a SiLU-gated MLP.

    Args:
        num_kv_heads: as the family reads it.
        max_positions: the family's default for `max_position_embeddings`.
        windows: sliding window of each layer, 0 for none.
        head_dim: the family's default; None derives it from the hidden size.

    Raises:
        ModelError: a field is missing, has the wrong type, or asks for what is not supported.
    """
    config.require("hidden_act", ("silu", "swish"), "silu")
    num_heads = config.integer("num_attention_heads")
    if num_heads % num_kv_heads:
        raise ModelError(
            f"config.json has num_attention_heads = {num_heads}, which is not a multiple of "
            f"num_key_value_heads = {num_kv_heads}"
        )
    head_dim = config.head_dim(head_dim)
    return Architecture(
        vocab_size=config.integer("vocab_size"),
        hidden_size=config.integer("hidden_size"),
        intermediate_size=config.integer("intermediate_size"),
        num_layers=config.num_layers(),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        norm_eps=config.number("rms_norm_eps", 1e-6),
        rotary=config.rotary(max_positions),
        attention_scale=head_dim**-0.5,
        windows=tuple(windows),
        tied_embeddings=config.flag("tie_word_embeddings"),
        qkv_bias=qkv_bias,
        o_bias=o_bias,
        mlp_bias=mlp_bias,
        qk_norm=qk_norm,
    )
