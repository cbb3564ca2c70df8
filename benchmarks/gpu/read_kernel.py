"""A kernel that does nothing but read: the bandwidth that kernels which write little can hope for."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS = 4096
_TILES = 8
"""Tiles of `_COLUMNS` numbers that a program reads."""


def read(source: Tensor, num_warps: int) -> Tensor:
    """The largest number of each part of a float32 tensor."""
    parts = triton.cdiv(source.numel(), _COLUMNS * _TILES)
    largest = torch.empty(parts, dtype=torch.float32, device=source.device)
    _read_kernel[(parts,)](source, largest, source.numel(), _COLUMNS, _TILES, num_warps=num_warps)
    return largest


@triton.jit
def _read_kernel(source_ptr, largest_ptr, size, COLUMNS: tl.constexpr, TILES: tl.constexpr):
    part = tl.program_id(0).to(tl.int64)
    largest = tl.full([COLUMNS], float("-inf"), tl.float32)
    for tile in tl.static_range(TILES):
        at = (part * TILES + tile) * COLUMNS + tl.arange(0, COLUMNS)
        largest = tl.maximum(largest, tl.load(source_ptr + at, mask=at < size, other=float("-inf")))
    tl.store(largest_ptr + part, tl.max(largest, axis=0))
