"""How a GPU's memory is divided, with the steps computed on the CPU and a device that is made up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.checkpoints import write_checkpoint
from tests.engine.driver import ignore_progress
from tokenwire_engine.distributed.shard import Shard
from tokenwire_engine.models.decoder import load_decoder
from tokenwire_engine.models.families.registry import read_architecture
from tokenwire_engine.runner import profile
from tokenwire_engine.runner.forward_graphs import pass_shapes
from tokenwire_engine.runner.graphs import graph_sizes
from tokenwire_engine.runner.memory import cache_geometry
from tokenwire_engine.weights.checkpoint import open_checkpoint, stored_tensors
from tokenwire_engine.weights.reader import WeightReader
from tokenwire_kernels import select_kernels


def test_the_cache_gets_what_weights_steps_and_graphs_leave(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "model"))
    kernels = select_kernels(cpu, "torch")
    _, architecture = read_architecture(checkpoint.config)
    reader = WeightReader(stored_tensors(checkpoint.weight_files()), cpu, torch.float32, ignore_progress)
    decoder = load_decoder(reader, architecture, 256, kernels, Shard())
    geometry = cache_geometry(architecture, 16, torch.float32, 64)
    gib = 1 << 30

    def peak(device: torch.device, work: Callable[[], None]) -> int:
        work()
        return 2 * gib

    monkeypatch.setattr(profile, "_peak", peak)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * gib, 80 * gib))

    def budget(captured_tokens: int) -> int:
        return profile.device_budget(decoder, geometry, kernels, cpu, 0.9, 512, 8, captured_tokens)

    eager = int(0.9 * 80 * gib) - 20 * gib - 2 * gib
    assert budget(captured_tokens=0) == eager
    num_graphs = len(graph_sizes(8)) + len(pass_shapes(128, 8))
    graphs = 2 * gib + (8 * 320 + 128 * architecture.hidden_size) * 4 + num_graphs * profile.GRAPH_BYTES
    assert budget(captured_tokens=128) == eager - graphs
