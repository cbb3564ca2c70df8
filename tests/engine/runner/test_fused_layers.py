"""Steps of few decodes whose layers are one launch, in captured steps as in eager ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.checkpoints import write_checkpoint
from tests.engine.driver import GREEDY
from tests.engine.models.test_layers import SIZES
from tests.engine.runner.loading import Recorder, load_on_cpu
from tests.engine.runner.serving import requests_with, serve
from tests.kernels.emulation.layers import EmulatedLayers, fuse_emulated
from tokenwire_engine.runner import load as loading
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_kernels import Kernels

SAMPLING = [GREEDY, SamplingParams(temperature=0.8), SamplingParams(temperature=1.1, top_k=20)]


@pytest.fixture
def rows_taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each launch had; every runner that is loaded has such layers."""
    taken: list[int] = []
    choose, launch = loading.choose_kernels, EmulatedLayers.__call__

    def chosen(*given: Any) -> Kernels:
        return replace(choose(*given), fuse_layers=fuse_emulated)

    def counted(self: EmulatedLayers, residual: Tensor, *others: Any) -> None:
        taken.append(len(residual))
        launch(self, residual, *others)

    monkeypatch.setattr(loading, "choose_kernels", chosen)
    monkeypatch.setattr(loading, "choose_dtype", lambda *_: torch.bfloat16)
    monkeypatch.setattr(EmulatedLayers, "__call__", counted)
    return taken


@pytest.mark.parametrize("overlap", [False, True])
def test_replayed_steps_yield_the_tokens_of_eager_ones(
    overlap: bool, tmp_path: Path, rows_taken: list[int]
) -> None:
    directory = write_checkpoint(tmp_path, "qwen3", **SIZES)
    options = {"cpu_instruction_set": "torch", "max_step_tokens": 24}
    tokens = []
    for capture in (None, Recorder()):
        rows_taken.clear()
        requests = requests_with(SAMPLING)
        for request, most in zip(requests, (2, 5, 8), strict=True):
            request.max_tokens = most
        tokens.append(serve(load_on_cpu(directory, capture, **options), requests, overlap=overlap)[0])
        assert set(rows_taken) == {1, 2}  # three are computed by operators
    assert tokens[0] == tokens[1]
