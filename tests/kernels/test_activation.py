"""SiLU and its product, of every backend."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from tests.kernels.tables import DTYPES, ROWS, assert_close


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "intermediate"), ROWS)
def test_silu_and_mul_agrees_with_float64(
    kernels: ModuleType, dtype: torch.dtype, tokens: int, intermediate: int
) -> None:
    gate_up = (3 * torch.randn(tokens, 2 * intermediate)).to(dtype)
    gate, up = gate_up.double().chunk(2, dim=-1)
    assert_close(kernels.silu_and_mul(gate_up), gate / (1 + torch.exp(-gate)) * up)


def test_silu_and_mul_leaves_its_input_alone(kernels: ModuleType) -> None:
    gate_up = torch.randn(3, 64)
    before = gate_up.clone()
    kernels.silu_and_mul(gate_up)
    assert torch.equal(gate_up, before)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
def test_silu_and_mul_saturates_without_nan(kernels: ModuleType) -> None:
    gate_up = torch.tensor([[-200.0, 200.0, 1.0, 1.0]])
    assert kernels.silu_and_mul(gate_up).tolist() == [[0.0, 200.0]]
