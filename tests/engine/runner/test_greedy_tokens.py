"""The engine's greedy tokens are transformers' own, for every family and in every company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.checkpoints import DEMO, write_checkpoint
from tests.engine.driver import generate
from tests.engine.runner.loading import load_on_cpu
from tests.engine.runner.oracle import prompts_of, transformers_tokens
from tests.kernels.native import needs_native

NUM_TOKENS = 64
STEP_TOKENS = 32

CHECKPOINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, one KV head for each query head": ("llama", {"num_key_value_heads": 4}),
    "llama, heads wider than hidden / heads": ("llama", {"head_dim": 32}),
    "llama, bfloat16": ("llama", {"dtype": "bfloat16"}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral, window shorter than the prompts": ("mistral", {"sliding_window": 24}),
    "qwen2": ("qwen2", {}),
    "qwen2, tied, window on the upper layers": (
        "qwen2",
        {
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": 20,
            "max_window_layers": 1,
        },
    ),
    "qwen3": ("qwen3", {}),
    "qwen3, tied, in several files": ("qwen3", {"tie_word_embeddings": True, "max_shard_size": "50KB"}),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_batch_of_prompts_of_many_lengths_continues_as_in_transformers(name: str, tmp_path: Path) -> None:
    family, changes = CHECKPOINTS[name]
    directory = write_checkpoint(tmp_path / "model", family, **changes)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    prompts = prompts_of((1, 5, STEP_TOKENS, 50, 101), vocab_size=320)
    expected = [transformers_tokens(model, prompt, NUM_TOKENS) for prompt in prompts]
    assert generate(load_on_cpu(directory), prompts, NUM_TOKENS, step_tokens=STEP_TOKENS) == expected


def test_the_demo_model_continues_as_in_transformers() -> None:
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    runner = load_on_cpu(DEMO)
    prompts = prompts_of((3, 40, 17), runner.info.vocab_size)
    expected = [transformers_tokens(model, prompt, NUM_TOKENS) for prompt in prompts]
    assert generate(runner, prompts, NUM_TOKENS, step_tokens=STEP_TOKENS) == expected


@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [
        ("float32", None),
        pytest.param("bfloat16", None, marks=needs_native),
        pytest.param("bfloat16", "int8", marks=needs_native),
        pytest.param("bfloat16", "int4", marks=needs_native),
    ],
)
def test_a_request_gets_the_same_tokens_alone_and_in_a_batch(
    tmp_path: Path, dtype: str, quantization: str | None
) -> None:
    directory = write_checkpoint(tmp_path / "model", "qwen3", max_position_embeddings=1024)
    runner = load_on_cpu(directory, dtype=dtype, quantization=quantization)
    prompts = prompts_of((7, 250, 1, 530), vocab_size=320)
    together = generate(runner, prompts, NUM_TOKENS, step_tokens=STEP_TOKENS)
    assert [generate(runner, [prompt], NUM_TOKENS)[0] for prompt in prompts] == together


def test_the_block_size_does_not_matter(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "model")
    prompts = prompts_of((7, 70), vocab_size=320)
    expected = generate(load_on_cpu(directory), prompts, 24)
    assert generate(load_on_cpu(directory, block_size=64), prompts, 24) == expected


def test_tokens_generated_before_a_preemption_are_taken_up_again(tmp_path: Path) -> None:
    runner = load_on_cpu(write_checkpoint(tmp_path / "model"))
    prompts = prompts_of((9, 21), vocab_size=320)
    whole = generate(runner, prompts, 30)
    resumed = generate(runner, prompts, 30, resumed=[tokens[:13] for tokens in whole])
    assert resumed == whole


def test_warming_up_leaves_no_trace(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "model")
    prompts = prompts_of((9, 21), vocab_size=320)
    cold, warm = load_on_cpu(directory), load_on_cpu(directory)
    warm.warm_up()
    assert generate(warm, prompts, 20) == generate(cold, prompts, 20)
