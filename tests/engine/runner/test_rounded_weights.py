"""Greedy tokens with weights of fewer bits are transformers' own on what the weights were rounded to.

Exactly so where the kernels widen the weights. Where they multiply int8, activations are rounded as well: see
`test_rounded_activations.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import write_checkpoint
from tests.engine.driver import generate
from tests.engine.runner.loading import load_on_cpu
from tests.engine.runner.oracle import prompts_of, transformers_tokens, with_rounded_weights
from tests.kernels.native import native_instruction_sets
from tokenwire_engine.quantization.schemes import SCHEMES

NUM_TOKENS = 64
WIDENING = next((name for name in ("avx2", "portable") if name in native_instruction_sets()), None)

pytestmark = pytest.mark.skipif(WIDENING is None, reason="the native kernels were not compiled")


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_tokens_are_those_of_transformers_on_the_rounded_weights(
    family: str, quantization: str, tmp_path: Path
) -> None:
    directory = write_checkpoint(tmp_path / "model", family)
    model = with_rounded_weights(directory, SCHEMES[quantization])
    prompts = prompts_of((1, 20, 70), vocab_size=320)
    expected = [transformers_tokens(model, prompt, NUM_TOKENS) for prompt in prompts]
    runner = load_on_cpu(directory, quantization=quantization, cpu_instruction_set=WIDENING)
    assert generate(runner, prompts, NUM_TOKENS) == expected
