"""Qwen3 (dense): Qwen2 without the biases, with RMSNorm on each query and key head."""

from __future__ import annotations

from tokenwire_engine.models.architecture import Architecture
from tokenwire_engine.models.config_file import ConfigFile
from tokenwire_engine.models.families.common import dense_decoder
from tokenwire_engine.models.families.qwen2 import qwen_windows


def qwen3(config: ConfigFile) -> Architecture:
    """`Qwen3ForCausalLM`."""
    attention_bias = config.flag("attention_bias")
    return dense_decoder(
        config,
        num_kv_heads=config.integer("num_key_value_heads", 32),
        max_positions=32768,
        windows=qwen_windows(config),
        head_dim=128,
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        qk_norm=True,
    )
