"""Kernels that begin before those ahead of them have ended compute what they compute one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.kernels.attention_cases import make_case
from tests.kernels.tables import Heads
from tokenwire_kernels import RowNorm, triton
from tokenwire_kernels.triton.dependent import launch_options
from tokenwire_kernels.triton.target import HOPPER, assuming, gpu_of, launch_dependents

on_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (9, 0),
    reason="needs a GPU of compute capability 9.0",
)


@pytest.fixture
def _dependents() -> Iterator[None]:
    launch_dependents()
    yield
    launch_dependents(False)


def test_nothing_begins_early_unless_it_is_asked_for(device: torch.device) -> None:
    assert not gpu_of(device).launches_dependents
    with assuming(HOPPER):
        assert launch_options(torch.device("meta")) == {"DEPENDENT": False}


def _layers(weights: list[Tensor], norm: RowNorm, x: Tensor) -> Tensor:
    """Products that each read what the one before wrote, the last in place."""
    residual = x.clone()
    for gate_up, down in zip(weights[::2], weights[1::2], strict=True):
        hidden = triton.linear(residual, gate_up, norm=norm, is_gated=True)
        triton.linear(hidden, down, residual=residual)
    return residual


@on_hopper
@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.usefixtures("_dependents")
def test_a_chain_of_products_gives_the_same_bits(rows: int) -> None:
    weights = []
    for _ in range(8):
        weights += [torch.randn(4096, 512).bfloat16() / 23, torch.randn(512, 2048).bfloat16() / 45]
    norm, x = RowNorm(torch.rand(512).bfloat16(), 1e-5), torch.randn(rows, 512).bfloat16()
    early = [_layers(weights, norm, x) for _ in range(50)]
    launch_dependents(False)
    expected = _layers(weights, norm, x)
    for result in early:
        assert torch.equal(result, expected)


@on_hopper
@pytest.mark.usefixtures("_dependents")
def test_attention_gives_the_same_bits() -> None:
    case = make_case(Heads(8, 2, 128, 16), [(1, 900), (1, 3), (1, 40)], torch.bfloat16)
    early = []
    for _ in range(50):
        case.batch.memo.clear()
        early.append(triton.paged_attention(case.q, case.cache, case.batch, 0.1))
    launch_dependents(False)
    expected = triton.paged_attention(case.q, case.cache, case.batch, 0.1)
    for result in early:
        assert torch.equal(result, expected)
