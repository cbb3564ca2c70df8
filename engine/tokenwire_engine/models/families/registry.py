"""Which family reads a checkpoint: by the architecture name in its config.json."""

from __future__ import annotations

from collections.abc import Callable

from tokenwire_engine.models.architecture import Architecture
from tokenwire_engine.models.config_file import ConfigFile
from tokenwire_engine.models.errors import ModelError
from tokenwire_engine.models.families.llama import llama
from tokenwire_engine.models.families.mistral import mistral
from tokenwire_engine.models.families.qwen2 import qwen2
from tokenwire_engine.models.families.qwen3 import qwen3

FAMILIES: dict[str, Callable[[ConfigFile], Architecture]] = {
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": mistral,
    "Qwen2ForCausalLM": qwen2,
    "Qwen3ForCausalLM": qwen3,
}


def read_architecture(config: ConfigFile) -> tuple[str, Architecture]:
    """The checkpoint's architecture name, and what it means.

    Raises:
        ModelError: the architecture is unknown, or its config lacks something or asks for the unsupported.
    """
    named = config.fields.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise ModelError(f"config.json has architectures = {named!r}; expected a list of names")
    name = next((name for name in named if name in FAMILIES), None)
    if name is None:
        raise ModelError(
            f"config.json names the architecture {', '.join(named) or '(none)'}, which is not supported; "
            f"supported: {', '.join(FAMILIES)}"
        )
    if "quantization_config" in config.fields:
        quantization = config.fields["quantization_config"]
        known = isinstance(quantization, dict) and quantization.get("quant_method")
        method = known or "unknown method"
        raise ModelError(
            f"the checkpoint is quantized ({method}), which is not supported; use the unquantized one"
        )
    return name, FAMILIES[name](config)
