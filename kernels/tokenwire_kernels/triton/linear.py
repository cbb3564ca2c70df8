"""The product with a weight matrix: one streaming launch for few rows, cuBLAS for many."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from tokenwire_kernels.batch import RowNorm
from tokenwire_kernels.triton.activation import silu_and_mul
from tokenwire_kernels.triton.few_rows import MOST_ROWS, few_rows_linear
from tokenwire_kernels.triton.linear_tiles import choose_tile
from tokenwire_kernels.triton.norm import rms_norm


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm: RowNorm | None = None,
    is_gated: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """See `reference.linear.linear`."""
    num_rows = len(x)
    tile = None
    if num_rows <= MOST_ROWS:
        tile = choose_tile(num_rows, *weight.shape, is_gated, x.dtype, x.device)
    if norm is not None:
        x = rms_norm(x, norm.weight, norm.eps)
    if tile is not None:
        return few_rows_linear(x, weight, bias, is_gated, residual, tile)
    if residual is not None and bias is None and not is_gated:
        return residual.addmm_(x, weight.t())  # cuBLAS adds where it writes
    y = functional.linear(x, weight, bias)
    if is_gated:
        y = silu_and_mul(y)
    return y if residual is None else residual.add_(y)
