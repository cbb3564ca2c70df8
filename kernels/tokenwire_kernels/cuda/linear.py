"""The product with a weight matrix: the kernel in CUDA C++ where `make tune` found it the fastest, else as
Triton's module."""

from __future__ import annotations

from torch import Tensor

from tokenwire_kernels import triton
from tokenwire_kernels.batch import RowNorm
from tokenwire_kernels.cuda.few_rows import few_rows_linear, takes
from tokenwire_kernels.triton.linear_tiles import prefers_cuda


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm: RowNorm | None = None,
    is_gated: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """See `reference.linear.linear`."""
    if takes(x, weight, norm) and prefers_cuda(len(x), *weight.shape, is_gated, x.dtype, x.device):
        return few_rows_linear(x, weight, bias, norm, is_gated, residual)
    return triton.linear(x, weight, bias, norm, is_gated, residual)
