"""Mistral: Llama with a sliding window over every layer (none where the field is null, as since v0.2)."""

from __future__ import annotations

from tokenwire_engine.models.architecture import Architecture
from tokenwire_engine.models.config_file import ConfigFile
from tokenwire_engine.models.families.common import dense_decoder


def mistral(config: ConfigFile) -> Architecture:
    """`MistralForCausalLM`."""
    return dense_decoder(
        config,
        num_kv_heads=config.integer("num_key_value_heads", 8),
        max_positions=131072,
        windows=[config.window(default=4096)] * config.num_layers(),
    )
