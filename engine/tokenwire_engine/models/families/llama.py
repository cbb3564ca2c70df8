"""Llama 1 to 3.x, and the many checkpoints that say they are Llama."""

from __future__ import annotations

from tokenwire_engine.models.architecture import Architecture
from tokenwire_engine.models.config_file import ConfigFile
from tokenwire_engine.models.families.common import dense_decoder


def llama(config: ConfigFile) -> Architecture:
    """`LlamaForCausalLM`."""
    attention_bias = config.flag("attention_bias")
    return dense_decoder(
        config,
        num_kv_heads=config.integer("num_key_value_heads", config.integer("num_attention_heads")),
        max_positions=2048,
        windows=[0] * config.num_layers(),
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=config.flag("mlp_bias"),
    )
