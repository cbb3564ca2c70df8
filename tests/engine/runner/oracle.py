"""transformers on the weights that a scheme rounds a checkpoint's to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tokenwire_engine.quantization.rounding import dequantize, quantize
from tokenwire_engine.quantization.schemes import Scheme


def with_rounded_weights(directory: Path, scheme: Scheme) -> Any:
    """The checkpoint in float32, every matrix but the embedding rounded; a tied output head is a copy."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                rounded = dequantize(quantize(module.weight, scheme), scheme)
                module.weight = torch.nn.Parameter(rounded, requires_grad=False)
    return model
