"""The product of activations with one weight matrix, in the fastest form that the device has.

On a CPU the weight is packed once into oneDNN's blocked layout, which is two to three times faster than
multiplying with the matrix as it is stored (measured with 1 to 512 rows, on an AVX-512 machine).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from tokenwire_kernels import Kernels, RowNorm

ROWS_HINT = 32
"""Number of rows that the layout is chosen for; it serves any number."""


class Linear(Protocol):
    """y = x Wᵀ + b, with what stands around it in a decoder."""

    def __call__(
        self, x: Tensor, norm: RowNorm | None = None, is_gated: bool = False, residual: Tensor | None = None
    ) -> Tensor:
        """`[num_tokens, in_features]` to `[num_tokens, out_features]`, or half as many where it is gated.

        Args:
            norm: what is done to the rows of `x` first.
            is_gated: the halves of y are a gate and what it multiplies (`silu_and_mul`).
            residual: what y is added to, in place; it is returned.
        """


class PlainLinear:
    """The matrix as it is stored: `[out_features, in_features]`."""

    __slots__ = ("bias", "kernels", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None, kernels: Kernels) -> None:
        self.weight = weight
        self.bias = bias
        self.kernels = kernels

    def __call__(
        self, x: Tensor, norm: RowNorm | None = None, is_gated: bool = False, residual: Tensor | None = None
    ) -> Tensor:
        return self.kernels.linear(x, self.weight, self.bias, norm, is_gated, residual)


class PackedLinear:
    """The matrix in oneDNN's layout. It keeps no reference to the one that it was made from."""

    __slots__ = ("bias", "kernels", "multiply", "packed")

    def __init__(self, weight: Tensor, bias: Tensor | None, kernels: Kernels) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight.default(weight, ROWS_HINT)
        self.bias = bias
        self.kernels = kernels
        self.multiply = torch.ops.mkldnn._linear_pointwise.default

    def __call__(
        self, x: Tensor, norm: RowNorm | None = None, is_gated: bool = False, residual: Tensor | None = None
    ) -> Tensor:
        if norm is not None:
            x = self.kernels.rms_norm(x, norm.weight, norm.eps)
        y: Tensor = self.multiply(x, self.packed, self.bias, "none", [], "")
        if is_gated:
            y = self.kernels.silu_and_mul(y)
        return y if residual is None else residual.add_(y)


def make_linear(weight: Tensor, bias: Tensor | None, kernels: Kernels) -> Linear:
    """A linear layer for a matrix `[out_features, in_features]` on the device where it lies."""
    packable = weight.device.type == "cpu" and weight.dtype == torch.float32
    if packable and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return PackedLinear(weight, bias, kernels)
    return PlainLinear(weight, bias, kernels)
