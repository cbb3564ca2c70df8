"""A GPU's greedy tokens are a CPU's float32 ones, wherever these were sure; graphs change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.checkpoints import write_checkpoint
from benchmarks.shapes import DEMO
from tests.engine.driver import GREEDY, ignore_progress
from tests.engine.runner.serving import requests_with, serve
from tests.gpu.margins import Choices, agreed, choices
from tests.kernels.native import needs_native
from tokenwire_engine.config import EngineConfig
from tokenwire_engine.runner.device import FP8_CAPABILITY
from tokenwire_engine.runner.load import load_runner
from tokenwire_engine.runner.local import LocalRunner
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.request import Request

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
ERROR = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1, "fp8": 2.0}
"""How far two logits of the tested models may move apart, by dtype: generous, and far below most margins."""
SAMPLING = [
    GREEDY,
    SamplingParams(temperature=0.8),
    SamplingParams(temperature=1.2, top_k=40, top_p=0.9),
    SamplingParams(temperature=0.9, min_p=0.05),
    SamplingParams(temperature=0.0, repetition_penalty=1.3),
    SamplingParams(typical_p=0.7, bad_words=((5,), (9, 10)), num_logprobs=2),
    SamplingParams(allowed_token_ids=tuple(range(3, 60)), min_tokens=20, ending_token_ids=(7,)),
]


def load(directory: Path, device: str, dtype: str, **options: Any) -> LocalRunner:
    config = EngineConfig(
        model=str(directory), device=device, dtype=dtype, max_running=16, max_model_len=512, **options
    )
    return load_runner(config, ignore_progress)


def prompts(vocab_size: int, count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(3, vocab_size, (4 + 9 * n,), generator=generator).tolist() for n in range(count)]


def compare(
    directory: Path, device: str, dtype: str, num_tokens: int, count: int, kv_cache_dtype: str = "auto"
) -> tuple[int, int]:
    """Tokens compared, and tokens in all."""
    options: dict[str, Any] = {"kv_cache_memory": 1 << 30, "kv_cache_dtype": kv_cache_dtype}
    # The native CPU kernels keep no fp8.
    instruction_set = "torch" if kv_cache_dtype == "fp8" else None
    reference = load(directory, "cpu", "float32", cpu_instruction_set=instruction_set, **options)
    asked = prompts(reference.info.vocab_size, count)
    expected = choices(reference, asked, num_tokens)
    reference.close()
    runner = load(directory, device, dtype, **options)
    actual = choices(runner, asked, num_tokens)
    runner.close()
    error = ERROR["fp8" if kv_cache_dtype == "fp8" else dtype]
    return agreed(expected, actual, error), count * num_tokens


def test_a_difference_where_the_choice_was_sure_is_found() -> None:
    expected = [Choices([1, 2, 3], [5.0, 0.1, 5.0])]
    assert agreed(expected, [Choices([1, 9, 9], [5.0, 5.0, 5.0])], error=0.2) == 1
    with pytest.raises(AssertionError, match=r"request 0, token 1: 2 by 0\.100, but 9"):
        agreed(expected, [Choices([1, 9, 9], [5.0, 5.0, 5.0])], error=0.05)


@needs_native
def test_bfloat16_on_a_cpu_chooses_the_tokens_of_float32() -> None:
    compared, total = compare(DEMO, "cpu", "bfloat16", 40, 6)
    assert compared > total / 2


@on_a_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_gpu_chooses_the_tokens_of_a_cpu_for_the_demo_model(dtype: str) -> None:
    compared, total = compare(DEMO, "cuda", dtype, 60, 8)
    assert compared > total / 2


@on_a_gpu
@pytest.mark.timeout(400)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_chooses_the_tokens_of_a_cpu_for_a_random_1b_model(dtype: str) -> None:
    directory = write_checkpoint("Llama-3.2-1B", torch.device("cuda"))
    compared, _ = compare(directory, "cuda", dtype, 12, 4)
    assert compared > 0  # random weights seldom choose clearly


def takes_fp8() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= FP8_CAPABILITY


@pytest.mark.skipif(not takes_fp8(), reason="needs a CUDA device of compute capability 8.9")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_reads_and_writes_an_fp8_cache_as_the_reference_does(dtype: str) -> None:
    """Beside the CPU's tokens with the same rounding of keys and values."""
    compared, total = compare(DEMO, "cuda", dtype, 40, 6, kv_cache_dtype="fp8")
    assert compared > total / 2


@on_a_gpu
@pytest.mark.parametrize("kv_cache_dtype", ["auto", "bfloat16", "fp8"])
@pytest.mark.parametrize("overlap", [False, True])
def test_graphs_change_no_token(overlap: bool, kv_cache_dtype: str) -> None:
    """Neither those of decodes nor those of passes, where chunks of prompts come beside decodes. In float32,
    where rows that fill a graph up move a logit far less than draws are apart."""
    if kv_cache_dtype == "fp8" and not takes_fp8():
        pytest.skip("needs a CUDA device of compute capability 8.9")
    options = {"kv_cache_memory": 1 << 28, "kv_cache_dtype": kv_cache_dtype, "max_step_tokens": 40}
    tokens = [
        serve(
            load(DEMO, "cuda", "float32", cuda_graphs=graphs, **options),
            requests_with(SAMPLING),
            prefix_cache=True,
            overlap=overlap,
        )[0]
        for graphs in (True, False)
    ]
    assert tokens[0] == tokens[1]


@on_a_gpu
def test_a_prompt_computed_in_many_steps_has_the_tokens_of_one_computed_at_once() -> None:
    """None of those steps yields a token that the host would wait for."""
    prompt = torch.randint(3, 320, (450,), generator=torch.Generator().manual_seed(5)).tolist()
    tokens = [
        serve(
            load(DEMO, "cuda", "float32", max_step_tokens=most, cuda_graphs=graphs, kv_cache_memory=1 << 28),
            [Request("long", prompt, GREEDY, 20)],
            overlap=True,
        )[0]
        for most, graphs in ((512, False), (512, True), (16, False), (16, True))
    ]
    assert all(each == tokens[0] for each in tokens)
