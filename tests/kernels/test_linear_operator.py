"""The product with a weight matrix, with all that can stand around it."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.kernels.tables import DTYPES, assert_close
from tokenwire_kernels import RowNorm, reference, triton
from tokenwire_kernels.triton import linear_tiles
from tokenwire_kernels.triton.few_rows import StreamTile, few_rows_linear
from tokenwire_kernels.triton.linear_tiles import Shape, choose_tile, prefers_cuda, presumed_tile
from tokenwire_kernels.triton.target import HOPPER

SHAPES = [(1, 64, 96), (3, 100, 70), (16, 160, 34), (33, 96, 130), (70, 64, 64)]
"""(rows, inputs, outputs): one row, odd sizes, a full tile, more rows than a tile or the kernel takes."""
SURROUNDINGS = ["nothing", "bias", "norm", "gate", "residual", "bias norm gate residual"]


def needs_bfloat16_products(kernels: ModuleType, dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and kernels is triton and not torch.cuda.is_available():
        pytest.skip("Triton's interpreter multiplies the bits of bfloat16 matrices as integers")


class Product:
    """Inputs of the operator, and what it should give.

    What is added up is of the result's size: a rounding on the way is one of the result.
    """

    def __init__(self, rows: int, inputs: int, outputs: int, dtype: torch.dtype, around: str) -> None:
        self.is_gated = "gate" in around
        width = outputs // 2 if self.is_gated else outputs
        self.x = torch.randn(rows, inputs).to(dtype)
        self.weight = (torch.randn(outputs, inputs) / inputs**0.5).to(dtype)
        self.bias = (torch.randn(outputs) / 4).to(dtype) if "bias" in around else None
        self.norm = RowNorm((torch.rand(inputs) / 2).to(dtype), 1e-5) if "norm" in around else None
        self.residual = torch.randn(rows, width).to(dtype) if "residual" in around else None

    def expected(self) -> Tensor:
        def wide(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.double()

        norm = None if self.norm is None else RowNorm(self.norm.weight.double(), self.norm.eps)
        return reference.linear(
            self.x.double(), self.weight.double(), wide(self.bias), norm, self.is_gated, wide(self.residual)
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("around", SURROUNDINGS)
def test_a_product_agrees_with_float64(
    kernels: ModuleType, shape: tuple[int, int, int], dtype: torch.dtype, around: str
) -> None:
    needs_bfloat16_products(kernels, dtype)
    product = Product(*shape, dtype, around)
    expected = product.expected()
    y = kernels.linear(
        product.x, product.weight, product.bias, product.norm, product.is_gated, product.residual
    )
    assert_close(y, expected)
    if product.residual is not None:
        assert y is product.residual


@pytest.mark.parametrize("around", ["nothing", "bias gate residual"])
@pytest.mark.parametrize("splits", [1, 2, 5])
def test_parts_of_the_depth_are_added_up_and_leave_nothing_behind(splits: int, around: str) -> None:
    for _ in range(2):
        product = Product(5, 200, 70, torch.float16, around)
        expected = product.expected()
        y = few_rows_linear(
            product.x, product.weight, product.bias, product.is_gated, product.residual,
            StreamTile(outputs=16, depth=32, splits=splits, warps=1, stages=2),
        )  # fmt: skip
        assert_close(y, expected)


def test_rows_may_be_apart() -> None:
    product = Product(3, 96, 64, torch.float16, "norm")
    apart = torch.full((3, 200), float("nan")).to(torch.float16)
    apart[:, :96] = product.x
    assert_close(triton.linear(apart[:, :96], product.weight, norm=product.norm), product.expected())


def test_without_a_measurement_few_rows_are_streamed_by_all_multiprocessors() -> None:
    tile = presumed_tile(Shape(1, 4096, 14336, is_gated=False), HOPPER, itemsize=2)
    assert tile is not None
    assert tile.splits * 4096 // tile.outputs >= HOPPER.processors
    assert presumed_tile(Shape(64, 4096, 14336, is_gated=False), HOPPER, itemsize=2) is None


def test_a_measurement_is_looked_up_by_gpu_and_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {
        "NVIDIA Sample": {
            "1 rows, 1024 to 2048, gated": {"tile": None, "us": 5.0, "cublas_us": 4.0, "cuda_us": 3.0},
            "4 rows, 1024 to 2048, gated": {
                "tile": {"outputs": 16, "depth": 256, "splits": 2, "warps": 2, "stages": 5},
                "us": 5.0, "cublas_us": 6.0, "cuda_us": 5.5,
            },
            "32 rows, 1024 to 2048, gated": {"tile": None, "us": 6.0, "cublas_us": 5.0},
        }
    }  # fmt: skip
    monkeypatch.setattr(linear_tiles, "_table", lambda: table)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Sample")
    choose = choose_tile.__wrapped__
    cuda = torch.device("cuda")
    assert choose(3, 2048, 1024, True, torch.bfloat16, cuda) == StreamTile(16, 256, 2, 2, 5)
    assert choose(20, 2048, 1024, True, torch.bfloat16, cuda) is None
    prefers = [
        prefers_cuda.__wrapped__(rows, 2048, 1024, True, torch.bfloat16, cuda) for rows in (1, 2, 20, 64)
    ]
    assert prefers == [True, False, False, False]
