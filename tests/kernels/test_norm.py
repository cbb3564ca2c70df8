"""RMS norms, alone and with the residual's addition."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from tests.kernels.tables import DTYPES, ROWS, assert_close
from tokenwire_kernels import reference


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "hidden"), ROWS)
def test_rms_norm_agrees_with_float64(
    kernels: ModuleType, dtype: torch.dtype, tokens: int, hidden: int
) -> None:
    x, weight = torch.randn(tokens, hidden).to(dtype), torch.rand(hidden).to(dtype)
    assert_close(kernels.rms_norm(x, weight, 1e-5), reference.rms_norm(x.double(), weight.double(), 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "hidden"), ROWS)
def test_add_rms_norm_updates_the_residual_and_normalizes_it(
    kernels: ModuleType, dtype: torch.dtype, tokens: int, hidden: int
) -> None:
    x, residual = torch.randn(tokens, hidden).to(dtype), torch.randn(tokens, hidden).to(dtype)
    weight = torch.rand(hidden).to(dtype)
    wide = residual.double()
    expected = reference.add_rms_norm(x.double(), wide, weight.double(), 1e-6)
    assert_close(kernels.add_rms_norm(x, residual, weight, 1e-6), expected)
    assert_close(residual, wide)


def test_rms_norm_of_each_head_in_a_fused_projection(kernels: ModuleType) -> None:
    qkv, weight = torch.randn(5, 8 * 24), torch.rand(24)
    q = qkv.view(5, 8, 24)[:, 2:6]
    normalized = kernels.rms_norm(q, weight, 1e-5)
    assert normalized.shape == q.shape
    assert_close(normalized, reference.rms_norm(q.double(), weight.double(), 1e-5))


def test_rms_norm_of_zeros_is_zero(kernels: ModuleType) -> None:
    assert kernels.rms_norm(torch.zeros(2, 64), torch.ones(64), 1e-5).eq(0.0).all()


def test_the_reference_rounds_where_transformers_does() -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    norm = llama.LlamaRMSNorm(576, eps=1e-5).to(torch.bfloat16)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(7, 576).to(torch.bfloat16)
    assert torch.equal(reference.rms_norm(x, norm.weight.data, 1e-5), norm(x))
