"""The engine on its Triton kernels, under Triton's interpreter: what a GPU would run, but for the capture."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import torch

from tests import interpreter
from tests.checkpoints import write_checkpoint
from tests.engine.driver import generate
from tests.engine.runner.loading import load_on_cpu
from tokenwire_engine.config import EngineConfig
from tokenwire_engine.runner import load as loading
from tokenwire_engine.runner.graphs import Capture
from tokenwire_engine.runner.local import LocalRunner
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_kernels import Kernels
from tokenwire_kernels import triton as triton_kernels

interpreter.prepare_once()
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are not interpreted with a GPU")
SAMPLING = [
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.9, seed=3),
    SamplingParams(temperature=0.8, top_k=20, top_p=0.9, seed=4),
]
PROMPTS = [[5, 6, 7, 8], [9], [10, 11]]


def load(directory: Path, kv_cache_dtype: str, capture: Capture | None = None) -> LocalRunner:
    options = {"kv_cache_dtype": kv_cache_dtype, "max_running": 4, "cpu_instruction_set": "torch"}
    return load_on_cpu(directory, capture, **options)


@pytest.mark.parametrize("kv_cache_dtype", ["auto", "float16"])
def test_interpreted_kernels_yield_the_references_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kv_cache_dtype: str
) -> None:
    """Not of fp8: rounding to it, Triton's interpreter loses the carry into the next power of two."""
    directory = write_checkpoint(tmp_path / "model", "qwen3", num_hidden_layers=2, max_position_embeddings=64)
    expected = generate(load(directory, kv_cache_dtype), PROMPTS, 5, sampling=SAMPLING)

    def interpreted(config: EngineConfig, device: torch.device) -> Kernels:
        names = [field.name for field in fields(Kernels) if field.default is MISSING]
        return Kernels(**{name: getattr(triton_kernels, name) for name in names})

    monkeypatch.setattr(loading, "choose_kernels", interpreted)
    assert generate(load(directory, kv_cache_dtype), PROMPTS, 5, sampling=SAMPLING) == expected
    assert (
        generate(load(directory, kv_cache_dtype, lambda work: work), PROMPTS, 5, sampling=SAMPLING)
        == expected
    )
