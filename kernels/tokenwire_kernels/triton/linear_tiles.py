"""Which tile of the streaming kernel serves a product of few rows, or whether another kernel is faster.

`linear_tiles.json` holds what `make tune` measured on a GPU, by its name and by shape. Where it has no entry,
a rule stands in that was not measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tokenwire_kernels.triton.few_rows import MOST_ROWS, StreamTile
from tokenwire_kernels.triton.target import Gpu, gpu_of

TABLE = Path(__file__).with_suffix(".json")
ROW_CLASSES = (1, 4, 16, 32, MOST_ROWS)
"""What is measured for one of these holds for fewer rows, down to the class before."""
_STREAMED_ROWS = 16
"""Without a measurement: as many rows as one tile of the tensor cores takes anyway."""
_PROGRAMS_PER_PROCESSOR = 2
"""Without a measurement: each has three stages of 16 kB on their way."""


@dataclass(slots=True, frozen=True)
class Shape:
    """What a tile is chosen for."""

    num_rows: int
    """One of `ROW_CLASSES`."""
    out_features: int
    in_features: int
    is_gated: bool

    @property
    def name(self) -> str:
        """Its key in the table."""
        gated = ", gated" if self.is_gated else ""
        return f"{self.num_rows} rows, {self.in_features} to {self.out_features}{gated}"


@cache
def choose_tile(
    num_rows: int,
    out_features: int,
    in_features: int,
    is_gated: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> StreamTile | None:
    """The tile of the streaming kernel; None where cuBLAS is faster."""
    shape = _shape(num_rows, out_features, in_features, is_gated)
    measured = _measured(shape, dtype, device)
    if measured is not None:
        return None if measured["tile"] is None else StreamTile(**measured["tile"])
    return presumed_tile(shape, gpu_of(device), dtype.itemsize)


@cache
def prefers_cuda(
    num_rows: int,
    out_features: int,
    in_features: int,
    is_gated: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> bool:
    """Whether the kernel in CUDA C++ was measured to be faster than the best tile and cuBLAS."""
    measured = _measured(_shape(num_rows, out_features, in_features, is_gated), dtype, device)
    if measured is None or "cuda_us" not in measured:
        return False
    return bool(measured["cuda_us"] < min(measured["us"], measured["cublas_us"]))


def _shape(num_rows: int, out_features: int, in_features: int, is_gated: bool) -> Shape:
    row_class = next(rows for rows in ROW_CLASSES if num_rows <= rows)
    return Shape(row_class, out_features, in_features, is_gated)


def _measured(shape: Shape, dtype: torch.dtype, device: torch.device) -> dict[str, Any] | None:
    """The table's entry for a shape on a GPU; it holds for numbers of 16 bits."""
    if device.type != "cuda" or dtype.itemsize != 2:
        return None
    return _table().get(torch.cuda.get_device_name(device), {}).get(shape.name)


def presumed_tile(shape: Shape, gpu: Gpu, itemsize: int) -> StreamTile | None:
    """What serves a shape that was not measured.

    A tile of 64 outputs, which four warps of tensor cores fill, and 16 kB of the matrix in a stage; the depth
    is split until every multiprocessor has two programs, but into no fewer than four stages each.
    """
    if shape.num_rows > _STREAMED_ROWS:
        return None
    outputs, products = 64, 2 if shape.is_gated else 1
    depth = 256 // (itemsize * products)
    num_tiles = -(-shape.out_features // (outputs * products))
    wanted = _PROGRAMS_PER_PROCESSOR * gpu.processors // num_tiles
    splits = max(1, min(wanted, shape.in_features // (4 * depth)))
    return StreamTile(outputs, depth, splits, warps=4, stages=4)


@cache
def _table() -> dict[str, dict[str, dict[str, Any]]]:
    """By GPU, then by shape: {"tile": of `StreamTile`, or null for cuBLAS, and what was measured: "us" of the
    best tile, "cublas_us", and "cuda_us" of the kernel in CUDA C++ where it takes the shape}."""
    table: dict[str, dict[str, dict[str, Any]]] = json.loads(TABLE.read_text())
    return table
