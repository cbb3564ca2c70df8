"""What transformers makes of a checkpoint: its greedy tokens, and the same of weights that were rounded."""

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


def prompts_of(lengths: tuple[int, ...], vocab_size: int) -> list[list[int]]:
    """Random prompts of these lengths, always the same ones."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, vocab_size, (length,), generator=generator).tolist() for length in lengths]


def transformers_tokens(model: Any, prompt: list[int], num_tokens: int) -> list[int]:
    """The most likely tokens behind a prompt, the end of the sequence being none like others."""
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
        eos_token_id=None,
    )
    return output[0, len(prompt) :].tolist()
