"""Tiles to be measured fit the GPU; what was measured is kept shape by shape, and found by the operator."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import tune
from benchmarks.tune import Inputs, Task, candidates, record, tasks
from tokenwire_kernels.triton import linear_tiles
from tokenwire_kernels.triton.few_rows import StreamTile
from tokenwire_kernels.triton.linear_tiles import Shape, choose_tile, presumed_tile
from tokenwire_kernels.triton.target import AMPERE, BLACKWELL, HOPPER, Gpu

NAME = "NVIDIA Sample"


@pytest.mark.parametrize("gpu", [AMPERE, HOPPER, BLACKWELL], ids=lambda gpu: str(gpu.capability))
def test_every_shape_has_tiles_of_which_two_fit_a_multiprocessor(gpu: Gpu) -> None:
    for task in tasks():
        found = candidates(task.shape, gpu)
        presumed = presumed_tile(task.shape, gpu, 2)
        assert presumed is None or presumed in found
        assert 1 <= len(found) <= 40
        products, rows = 2 if task.shape.is_gated else 1, max(16, task.shape.num_rows)
        for tile in found:
            stage_bytes = 2 * tile.depth * (products * tile.outputs + rows)
            assert 2 * tile.stages * stage_bytes <= tune.SHARED_MEMORY[gpu.capability]


def test_what_was_measured_is_kept_beside_the_rest_and_found_by_the_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tiles.json"
    file.write_text(json.dumps({"NVIDIA Other": {"x": {"tile": None}}}))
    tile = {"outputs": 32, "depth": 128, "splits": 2, "warps": 2, "stages": 5}
    record(file, NAME, Shape(4, 2048, 1024, True), {"tile": tile, "us": 3.0, "cublas_us": 4.0})
    record(file, NAME, Shape(64, 2048, 1024, True), {"tile": None, "us": 9.0, "cublas_us": 4.0})
    assert json.loads(file.read_text())["NVIDIA Other"] == {"x": {"tile": None}}

    monkeypatch.setattr(linear_tiles, "TABLE", file)
    monkeypatch.setattr(linear_tiles, "_table", linear_tiles._table.__wrapped__)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: NAME)
    choose, cuda = choose_tile.__wrapped__, torch.device("cuda")
    assert choose(3, 2048, 1024, True, torch.bfloat16, cuda) == StreamTile(**tile)
    assert choose(40, 2048, 1024, True, torch.bfloat16, cuda) is None


def test_a_tile_that_gives_another_result_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "bfloat16", torch.float16)  # which the interpreter can multiply
    inputs = Inputs(Task(Shape(2, 64, 96, False), is_normalized=True, is_added=True), torch.device("cpu"))
    streamed = partial(inputs.streamed, StreamTile(16, 32, 2, 1, 2))
    assert tune._agrees(inputs, streamed)
    multiplied = Inputs.multiplied
    monkeypatch.setattr(Inputs, "multiplied", lambda self: multiplied(self) * 1.1)
    assert not tune._agrees(inputs, streamed)
