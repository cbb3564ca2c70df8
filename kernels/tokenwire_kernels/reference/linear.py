"""The product with a weight matrix, and what stands before and after it in a decoder.

A decoder's layer is four of these: the normalization before a product, the gate behind it, and the residual
that it is added to belong to it, so that an implementation can do without their reads and writes.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from tokenwire_kernels.batch import RowNorm
from tokenwire_kernels.reference.activation import silu_and_mul
from tokenwire_kernels.reference.norm import rms_norm


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm: RowNorm | None = None,
    is_gated: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """y = rms_norm(x) Wᵀ + b; gated: silu(gate) * up of y's halves; with a residual: residual += y, in place.

    Each step is rounded to the dtype of `x`, as if it were an operator of its own.

    Args:
        x: [num_tokens, in_features]; each row is contiguous.
        weight: [out_features, in_features], the dtype of `x`, contiguous. Gated: the gate's rows, then up's.
        bias: [out_features].
        norm: of the rows of x; None: they are multiplied as they are.
        is_gated: y is what `silu_and_mul` makes of the product.
        residual: [num_tokens, out_features or half of it], contiguous; updated.

    Returns:
        [num_tokens, out_features or half of it], the dtype of `x`: the residual itself, where there is one.
    """
    if norm is not None:
        x = rms_norm(x, norm.weight, norm.eps)
    y = functional.linear(x, weight, bias)
    if is_gated:
        y = silu_and_mul(y)
    return y if residual is None else residual.add_(y)
