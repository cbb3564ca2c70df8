"""Which tile of the streaming product is fastest for each shape of the usual models, measured on this GPU.

`make tune` times every tile that fits, the kernel in CUDA C++, and cuBLAS with what stands around the product
apart, on matrices that no cache holds, and writes the best into `linear_tiles.json`, shape by shape: stopped
early, it has measured the shapes that decide most. What gives another result than cuBLAS is left out, and
named.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu.models import CONFIGS
from benchmarks.gpu.timing import Call, copies, seconds_per_call
from tokenwire_kernels import RowNorm
from tokenwire_kernels.cuda import few_rows
from tokenwire_kernels.cuda.module import is_available
from tokenwire_kernels.triton import rms_norm, silu_and_mul
from tokenwire_kernels.triton.few_rows import StreamTile, few_rows_linear
from tokenwire_kernels.triton.linear_tiles import ROW_CLASSES, TABLE, Shape, presumed_tile
from tokenwire_kernels.triton.target import Gpu, gpu_of

SHARED_MEMORY = {80: 160 << 10, 90: 224 << 10, 100: 224 << 10}
"""Bytes for the programs of a multiprocessor, by generation; others are taken to have 96 kB."""


@dataclass(slots=True, frozen=True)
class Task:
    """A product as a model's step has it."""

    shape: Shape
    is_normalized: bool
    is_added: bool


@dataclass(slots=True)
class Inputs:
    """One set of the many that calls rotate among."""

    task: Task
    device: torch.device
    x: Tensor = field(init=False)
    weight: Tensor = field(init=False)
    norm: RowNorm | None = field(init=False, default=None)
    residual: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        shape = self.task.shape

        def randn(*size: int) -> Tensor:
            return torch.randn(size, device=self.device, dtype=torch.bfloat16)

        self.x = randn(shape.num_rows, shape.in_features)
        self.weight = randn(shape.out_features, shape.in_features) * shape.in_features**-0.5
        if self.task.is_normalized:
            self.norm = RowNorm(randn(shape.in_features), 1e-5)
        if self.task.is_added:
            self.residual = randn(shape.num_rows, shape.out_features)

    def streamed(self, tile: StreamTile) -> Tensor:
        """By the streaming kernel."""
        return few_rows_linear(
            self._normalized(), self.weight, None, self.task.shape.is_gated, self.residual, tile
        )

    def streamed_by_cuda(self) -> Tensor:
        """By the kernel in CUDA C++."""
        return few_rows.few_rows_linear(
            self.x, self.weight, None, self.norm, self.task.shape.is_gated, self.residual
        )

    def multiplied(self) -> Tensor:
        """By cuBLAS, as the operator would."""
        x = self._normalized()
        if self.residual is not None:
            return self.residual.addmm_(x, self.weight.t())
        y = functional.linear(x, self.weight)
        return silu_and_mul(y) if self.task.shape.is_gated else y

    def _normalized(self) -> Tensor:
        return self.x if self.norm is None else rms_norm(self.x, self.norm.weight, self.norm.eps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="when to stop at the latest")
    parser.add_argument("--output", type=Path, default=TABLE, help="the table that is brought up to date")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, "there is no CUDA device: tiles can only be measured on the GPU that they are for\n")
    device = torch.device("cuda", 0)
    name, deadline = torch.cuda.get_device_name(device), time.monotonic() + 60 * options.minutes
    for task in tasks():
        if time.monotonic() > deadline:
            print("the time is up: the other shapes keep what they had")
            break
        entry = measure(task, device)
        record(options.output, name, task.shape, entry)
        print(f"{task.shape.name}: {json.dumps(entry)}", flush=True)


def tasks() -> Iterator[Task]:
    """The products of the models whose sizes `benchmarks/gpu/models.py` knows: one row first."""
    found: dict[Shape, Task] = {}
    for rows in ROW_CLASSES:
        for name, config in CONFIGS.items():
            if name == "tiny":
                continue
            hidden, inner = config["hidden_size"], config["intermediate_size"]
            heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
            head_dim = config["head_dim"]
            for task in (
                Task(Shape(rows, (heads + 2 * kv_heads) * head_dim, hidden, False), True, False),
                Task(Shape(rows, hidden, heads * head_dim, False), False, True),
                Task(Shape(rows, 2 * inner, hidden, True), True, False),
                Task(Shape(rows, hidden, inner, False), False, True),
                Task(Shape(rows, config["vocab_size"], hidden, False), True, False),
            ):
                found.setdefault(task.shape, task)
    yield from found.values()


def candidates(shape: Shape, gpu: Gpu) -> list[StreamTile]:
    """Tiles of which at least two fit on a multiprocessor, and that are neither far too few nor too many."""
    memory = SHARED_MEMORY.get(gpu.capability, 96 << 10) // 2
    products = 2 if shape.is_gated else 1
    rows = max(16, shape.num_rows)
    found = [presumed] if (presumed := presumed_tile(shape, gpu, itemsize=2)) is not None else []
    for outputs in (16, 32, 64, 128):
        for depth in (64, 128, 256):
            stage = 2 * depth * (products * outputs + rows)
            stages = min(6, memory // stage)
            num_tiles = -(-shape.out_features // (products * outputs))
            for splits in (1, 2, 4, 8):
                programs = num_tiles * splits
                deep_enough = shape.in_features // (splits * depth) >= 4
                if stages < 3 or not deep_enough or not programs / gpu.processors >= 0.75:
                    continue
                if splits > 1 and programs > 4 * gpu.processors:
                    continue
                tile = StreamTile(outputs, depth, splits, warps=max(1, min(4, outputs // 16)), stages=stages)
                if tile not in found:
                    found.append(tile)
    return found


def measure(task: Task, device: torch.device) -> dict[str, Any]:
    """The best tile, or None where cuBLAS was faster; microseconds of both."""
    matrix_bytes = 2 * task.shape.out_features * task.shape.in_features
    sets = [Inputs(task, device) for _ in range(copies(matrix_bytes, device))]
    cublas = _microseconds([inputs.multiplied for inputs in sets], device)
    best, best_tile = float("inf"), None
    for tile in candidates(task.shape, gpu_of(device)):
        try:
            if not _agrees(sets[0], partial(sets[0].streamed, tile)):
                print(f"{task.shape.name}: {tile} gives another result; left out")
                continue
            taken = _microseconds([partial(inputs.streamed, tile) for inputs in sets], device)
        except torch.AcceleratorError:
            raise
        except Exception as error:  # whatever Triton raises for a tile that does not compile
            print(f"{task.shape.name}: {tile} does not run: {str(error).splitlines()[0]}")
            continue
        if taken < best:
            best, best_tile = taken, tile
    is_faster = best_tile is not None and best < cublas
    entry: dict[str, Any] = {
        "tile": asdict(best_tile) if is_faster and best_tile is not None else None,
        "us": round(best, 2),
        "cublas_us": round(cublas, 2),
    }
    if is_available() and few_rows.takes(sets[0].x, sets[0].weight, sets[0].norm):
        if _agrees(sets[0], sets[0].streamed_by_cuda):
            entry["cuda_us"] = round(_microseconds([inputs.streamed_by_cuda for inputs in sets], device), 2)
        else:
            print(f"{task.shape.name}: the kernel in CUDA C++ gives another result; left out")
    fastest = min(best, cublas, entry.get("cuda_us", cublas))
    return entry | {"read_gb_s": round(matrix_bytes / fastest / 1000)}


def record(file: Path, gpu_name: str, shape: Shape, entry: dict[str, Any]) -> None:
    """Put one shape's entry into the table; the others, and other GPUs', stay."""
    table = json.loads(file.read_text()) if file.exists() else {}
    table.setdefault(gpu_name, {})[shape.name] = entry
    file.write_text(json.dumps(table, indent=1) + "\n")


def _microseconds(calls: list[Call], device: torch.device) -> float:
    return 1e6 * seconds_per_call(calls, device)


def _agrees(inputs: Inputs, streamed: Callable[[], Tensor]) -> bool:
    """Whether a call on the inputs gives what cuBLAS gives, to bfloat16's precision."""
    before = None if inputs.residual is None else inputs.residual.clone()
    expected = inputs.multiplied().clone()
    if inputs.residual is not None and before is not None:
        inputs.residual.copy_(before)
    error = (streamed().float() - expected).norm() / expected.float().norm()
    return bool(error < 1e-2)


if __name__ == "__main__":
    main()
