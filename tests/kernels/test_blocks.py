"""Moving blocks within the cache, and between it and host memory."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

DTYPES = [torch.float32, torch.bfloat16, torch.float8_e4m3fn]
SHAPES = [(2, 16, 8), (3, 16, 200)]
"""Of a block of a layer: less than a program copies, and more."""


def make_layers(dtype: torch.dtype, shape: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(7, *shape).to(dtype) for _ in range(5)]


def equal(actual: Tensor, expected: Tensor) -> bool:
    return torch.equal(actual.view(torch.uint8), expected.view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_are_copied_in_every_layer_and_nothing_else_changes(
    kernels: ModuleType, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    layers = make_layers(dtype, shape)
    before = [layer.clone() for layer in layers]
    kernels.copy_blocks(layers, torch.tensor([1, 4, 1]), torch.tensor([6, 0, 2]))
    for layer, was in zip(layers, before, strict=True):
        for block, source in enumerate([4, 1, 1, 3, 4, 5, 1]):
            assert equal(layer[block], was[source])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_was_gathered_is_scattered_back(
    kernels: ModuleType, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    layers = make_layers(dtype, shape)
    before = [layer.clone() for layer in layers]
    staged = torch.full((2, 5, *shape), float("nan")).to(dtype)
    kernels.gather_blocks(layers, torch.tensor([5, 2]), staged)
    for index, layer in enumerate(before):
        assert equal(staged[0, index], layer[5])
        assert equal(staged[1, index], layer[2])
    kernels.scatter_blocks(staged, layers, torch.tensor([0, 3]))
    for layer, was in zip(layers, before, strict=True):
        for block, source in enumerate([5, 1, 2, 2, 4, 5, 6]):
            assert equal(layer[block], was[source])
