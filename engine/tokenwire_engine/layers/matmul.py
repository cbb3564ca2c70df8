"""The product of activations with one weight matrix, in the fastest form that the device has.

On a CPU the weight is packed once into oneDNN's blocked layout, which is two to three times faster than
multiplying with the matrix as it is stored (measured with 1 to 512 rows, on an AVX-512 machine).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

ROWS_HINT = 32
"""Number of rows that the layout is chosen for; it serves any number."""


class Linear(Protocol):
    """y = x Wᵀ + b."""

    def __call__(self, x: Tensor) -> Tensor:
        """`[num_tokens, in_features]` to `[num_tokens, out_features]`."""


class PlainLinear:
    """The matrix as it is stored: `[out_features, in_features]`."""

    __slots__ = ("bias", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class PackedLinear:
    """The matrix in oneDNN's layout. It keeps no reference to the one that it was made from."""

    __slots__ = ("bias", "multiply", "packed")

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight.default(weight, ROWS_HINT)
        self.bias = bias
        self.multiply = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = self.multiply(x, self.packed, self.bias, "none", [], "")
        return y


def make_linear(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """A linear layer for a matrix `[out_features, in_features]` on the device where it lies."""
    packable = weight.device.type == "cpu" and weight.dtype == torch.float32
    if packable and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return PackedLinear(weight, bias)
    return PlainLinear(weight, bias)
