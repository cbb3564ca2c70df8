"""The product of few rows in CUDA C++: natively on a GPU, else emulated on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from itertools import product as combinations

import pytest
import torch
from torch import Tensor

from tests.kernels.emulation import emulated
from tests.kernels.tables import assert_close
from tests.kernels.test_linear_operator import SURROUNDINGS, Product
from tokenwire_kernels import RowNorm, reference
from tokenwire_kernels.cuda import few_rows
from tokenwire_kernels.cuda.few_rows import few_rows_linear
from tokenwire_kernels.cuda.module import CudaError, compiled, is_available
from tokenwire_kernels.triton.target import launch_dependents

SHAPES = [(256, 96), (768, 70), (1280, 34), (2048, 96), (1024, 258)]
"""(inputs, outputs): one step, odd numbers of steps, fewer pairs than warps, and more."""
PROCESSORS = 2
"""That are emulated."""
needs_compiler = pytest.mark.skipif(not is_available(), reason="needs NVRTC")


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: RowNorm | None,
    is_gated: bool,
    residual: Tensor | None,
) -> Tensor:
    """As `few_rows_linear`, wherever this runs."""
    if x.is_cuda:
        assert few_rows.takes(x, weight, norm)
        return few_rows_linear(x, weight, bias, norm, is_gated, residual)
    num_rows, in_features = x.shape
    width = len(weight) // 2 if is_gated else len(weight)
    out = torch.full((num_rows, width), float("nan"), dtype=x.dtype) if residual is None else residual
    plan = few_rows.plan_of(num_rows, len(weight), in_features, PROCESSORS)
    launch = emulated("few_rows.cpp", *few_rows.defines(x.dtype)).launch
    launch.argtypes = [*4 * [ctypes.c_int], *few_rows.ARGUMENTS]
    launch(
        plan.rows, int(is_gated), PROCESSORS, plan.shared_bytes,
        *few_rows.arguments(plan, x, weight, bias, norm, residual, out),
    )  # fmt: skip
    return out


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("around", SURROUNDINGS)
@pytest.mark.parametrize("num_rows", [1, 2, 3, 4])
def test_a_product_agrees_with_float64(
    num_rows: int, around: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    product = Product(num_rows, *shape, dtype, around)
    expected = product.expected()
    y = linear(product.x, product.weight, product.bias, product.norm, product.is_gated, product.residual)
    assert_close(y, expected)
    if product.residual is not None:
        assert y is product.residual


def test_rows_may_be_apart() -> None:
    product = Product(3, 256, 66, torch.float16, "norm")
    apart = torch.full((3, 400), float("nan")).to(torch.float16)
    apart[:, :256] = product.x
    y = linear(apart[:, :256], product.weight, None, product.norm, False, None)
    assert_close(y, product.expected())


def test_the_busiest_warp_has_little_more_to_read_than_others() -> None:
    """For the shapes of the usual models on 132 multiprocessors."""
    for outputs, inputs in [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (3072, 2048)]:
        bits = few_rows.plan_of(1, outputs, inputs, 132).split_bits
        groups = 132 * (8 >> bits)
        busiest = -(-outputs // 2 // groups) * (inputs // 256 >> bits) * 2 * 256
        assert outputs * inputs / (132 * 8 * busiest) > 0.9


@needs_compiler
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_it_compiles_for_every_generation(
    capability: int, dtype: torch.dtype, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = compiled(few_rows.SOURCE, few_rows.defines(dtype), capability)
    assert compiled(few_rows.SOURCE, few_rows.defines(dtype), capability) == first


@needs_compiler
def test_what_does_not_compile_says_why(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(CudaError, match="error"):
        compiled(few_rows.SOURCE, ["BFLOAT16=nonsense("], 90)


@pytest.fixture
def early_launches() -> Iterator[None]:
    launch_dependents(True)
    yield
    launch_dependents(False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("early_launches")
def test_kernels_that_begin_early_wait_for_what_they_read() -> None:
    """A chain in which every product reads what the one before wrote, and overwrites what it read."""
    weights = [(torch.randn(2048, 2048) / 45).bfloat16() for _ in range(4)]
    x = torch.randn(1, 2048).bfloat16()
    for _, weight in combinations(range(25), weights):
        expected = reference.linear(x.double(), weight.double(), None, None, False, x.double())
        x = few_rows_linear(x.clone(), weight, None, None, False, x)
        assert_close(x, expected)
        x /= x.float().norm() / 45
