"""A decoder whose layers are one operator computes what its layers do in turn, and takes only what it may."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.checkpoints import write_checkpoint
from tests.engine.driver import ignore_progress
from tests.engine.models.decoders import CPU, NUM_POSITIONS, logits_of
from tests.kernels.emulation.layers import EmulatedLayers, fuse_emulated
from tokenwire_engine.distributed.shard import Shard
from tokenwire_engine.models.decoder import LayeredDecoder, load_decoder
from tokenwire_engine.models.families.registry import read_architecture
from tokenwire_engine.runner.memory import CacheGeometry, cache_geometry
from tokenwire_engine.weights.checkpoint import open_checkpoint, stored_tensors
from tokenwire_engine.weights.reader import WeightReader
from tokenwire_kernels import select_kernels
from tokenwire_kernels.cuda.module import CudaError
from tokenwire_kernels.fallback import Fallback
from tokenwire_kernels.layers import FuseLayers

SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}


def load(
    directory: Path, fuse_layers: FuseLayers | None, dtype: torch.dtype = torch.bfloat16
) -> tuple[LayeredDecoder, CacheGeometry]:
    """A checkpoint's decoder of operators in PyTorch."""
    checkpoint = open_checkpoint(directory)
    _, architecture = read_architecture(checkpoint.config)
    reader = WeightReader(stored_tensors(checkpoint.weight_files()), CPU, dtype, ignore_progress)
    kernels = replace(select_kernels(CPU, "torch"), fuse_layers=fuse_layers)
    decoder = load_decoder(reader, architecture, NUM_POSITIONS, kernels, Shard())
    assert isinstance(decoder, LayeredDecoder)
    return decoder, cache_geometry(architecture, 16, dtype, NUM_POSITIONS)


def are_fused(decoder: LayeredDecoder) -> bool:
    return isinstance(decoder.layers, Fallback)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_layers_as_one_operator_compute_what_they_do_in_turn(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"sliding_window": 20} if family == "mistral" else {}
    if family == "llama":
        changes = {"attention_bias": True, "mlp_bias": True}
    directory = write_checkpoint(tmp_path, family, **SIZES, **changes)
    taken: list[int] = []

    def counted(self: EmulatedLayers, residual: Tensor, *others: Any) -> None:
        taken.append(len(residual))
        launch(self, residual, *others)

    launch = EmulatedLayers.__call__
    monkeypatch.setattr(EmulatedLayers, "__call__", counted)
    steps = [torch.randint(3, 320, (45,), generator=torch.Generator().manual_seed(0)).tolist(), [7], [8]]
    exact = logits_of(load(directory, None, torch.float32), steps)
    in_turn = logits_of(load(directory, None), steps)
    together = logits_of(load(directory, fuse_emulated), steps)
    assert taken == [1, 1]
    error, usual = (together - exact).norm(), (in_turn - exact).norm()
    assert error < 1.3 * usual
    assert torch.equal(together[:45], in_turn[:45])


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"head_dim": 96}, id="heads that no kernel is for"),
        pytest.param({"hidden_size": 192}, id="rows that are no whole steps"),
    ],
)
def test_others_stay_apart(changes: dict[str, int], tmp_path: Path) -> None:
    decoder, _ = load(write_checkpoint(tmp_path, "llama", **SIZES | changes), fuse_emulated)
    assert not are_fused(decoder)


def test_weights_that_are_packed_and_windows_that_differ_stay_apart(tmp_path: Path) -> None:
    assert not are_fused(
        load(write_checkpoint(tmp_path / "a", "llama", **SIZES), fuse_emulated, torch.float32)[0]
    )
    mixed = {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}
    assert not are_fused(load(write_checkpoint(tmp_path / "b", "qwen2", **SIZES | mixed), fuse_emulated)[0])


def test_a_kernel_that_does_not_compile_leaves_the_layers_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    directory = write_checkpoint(tmp_path, "llama", **SIZES)

    def refuse(*_: Any) -> None:
        raise CudaError("too old")

    monkeypatch.setattr(EmulatedLayers, "__call__", refuse)
    steps = [[5, 6, 7], [8], [9]]
    expected = logits_of(load(directory, None), steps)
    assert torch.equal(logits_of(load(directory, fuse_emulated), steps), expected)
    (record,) = caplog.records
    assert record.message.startswith("layers: ")
    assert "too old" in record.message
    assert "models.layers computes instead" in record.message
