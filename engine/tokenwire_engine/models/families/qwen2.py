"""Qwen2 and Qwen2.5: Llama with biases on q, k and v, and a window on the upper layers when switched on."""

from __future__ import annotations

from tokenwire_engine.models.architecture import Architecture
from tokenwire_engine.models.config_file import ConfigFile
from tokenwire_engine.models.errors import ModelError
from tokenwire_engine.models.families.common import dense_decoder

WINDOWED, FULL = "sliding_attention", "full_attention"


def qwen2(config: ConfigFile) -> Architecture:
    """`Qwen2ForCausalLM`."""
    return dense_decoder(
        config,
        num_kv_heads=config.integer("num_key_value_heads", 32),
        max_positions=32768,
        windows=qwen_windows(config),
        qkv_bias=True,
    )


def qwen_windows(config: ConfigFile) -> list[int]:
    """The window of each layer: `layer_types` says which have one, else those from `max_window_layers` up."""
    num_layers = config.num_layers()
    window = config.window(default=4096) if config.flag("use_sliding_window") else 0
    layer_types = config.fields.get("layer_types")
    if layer_types is None:
        first = config.fields.get("max_window_layers", 28)
        if isinstance(first, bool) or not isinstance(first, int):
            raise ModelError(f"config.json has max_window_layers = {first!r}; expected an integer")
        return [window if layer >= first else 0 for layer in range(num_layers)]
    is_list = isinstance(layer_types, list) and len(layer_types) == num_layers
    if not is_list or any(layer_type not in (WINDOWED, FULL) for layer_type in layer_types):
        raise ModelError(
            f"config.json has layer_types = {layer_types!r}; expected {num_layers} (num_hidden_layers) times "
            f"{WINDOWED!r} or {FULL!r}"
        )
    return [window if layer_type == WINDOWED else 0 for layer_type in layer_types]
