"""Where kernels round activations to int8, tokens are transformers' own wherever its choice was clear.

What is clear is measured: the greatest error of the kernels' logits over one text bounds how far two logits
may move apart in another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.checkpoints import DEMO, write_checkpoint
from tests.engine.driver import generate
from tests.engine.models.decoders import load_decoder_on_cpu, logits_of
from tests.engine.runner.loading import load_on_cpu
from tests.engine.runner.oracle import prompts_of, with_rounded_weights
from tests.kernels.native import native_instruction_sets
from tokenwire_engine.quantization.schemes import SCHEMES

ROUNDING = [name for name in native_instruction_sets() if name in ("avx512_vnni", "avx512_bf16", "amx")]
CALIBRATION_TOKENS, NUM_TOKENS = 400, 64

pytestmark = pytest.mark.skipif(not ROUNDING, reason="no kernels that round activations run on this CPU")


def logits_of_transformers(model: Any, tokens: list[int]) -> Tensor:
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0]


def greatest_error(actual: Tensor, expected: Tensor) -> float:
    """How far any token's logit moved relative to that of the best token, `[positions, vocab_size]` both."""
    error = actual - expected
    return float((error - error.gather(1, expected.argmax(dim=1, keepdim=True))).abs().max())


@pytest.mark.parametrize("instruction_set", ROUNDING)
@pytest.mark.parametrize("quantization", ["int8", "int4"])
@pytest.mark.parametrize("name", ["random", "demo"])
def test_tokens_agree_wherever_the_margin_exceeds_the_error(
    name: str, quantization: str, instruction_set: str, tmp_path: Path
) -> None:
    directory = DEMO if name == "demo" else write_checkpoint(tmp_path, "qwen3", max_position_embeddings=512)
    oracle = with_rounded_weights(directory, SCHEMES[quantization])
    text, *prompts = prompts_of((CALIBRATION_TOKENS, 1, 20, 70, 33), oracle.config.vocab_size)
    decoder = load_decoder_on_cpu(directory, instruction_set, torch.float32, quantization)
    error = greatest_error(logits_of(decoder, [text]), logits_of_transformers(oracle, text))

    runner = load_on_cpu(directory, quantization=quantization, cpu_instruction_set=instruction_set)
    clear = 0
    for prompt, tokens in zip(prompts, generate(runner, prompts, NUM_TOKENS), strict=True):
        best = logits_of_transformers(oracle, prompt + tokens)[len(prompt) - 1 : -1].topk(2)
        is_clear = best.values[:, 0] - best.values[:, 1] > error
        assert torch.equal(best.indices[is_clear, 0], torch.tensor(tokens)[is_clear])
        clear += int(is_clear.sum())
    assert clear > len(prompts) * NUM_TOKENS / 4
