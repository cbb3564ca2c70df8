"""Root-mean-square normalization (Zhang and Sennrich, 2019), alone and fused with the residual addition.

The rounding order is part of the definition: normalize in float32, round to the input's dtype, then
multiply by the weight. Checkpoints were trained with it, and greedy tokens depend on it.
"""

from __future__ import annotations

from torch import Tensor

from tokenwire_kernels.reference.precision import compute_dtype


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) * weight, over the last dimension.

    Args:
        x: [..., hidden], any float dtype.
        weight: [hidden], the dtype of `x`.
        eps: added to the mean square.

    Returns:
        [..., hidden], the dtype of `x`.
    """
    wide = x.to(compute_dtype(x.dtype))
    scale = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
    return (wide * scale).to(x.dtype).mul_(weight)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """residual += x, in place; returns rms_norm(residual, weight, eps).

    Args:
        x: [num_tokens, hidden], what the previous layer computed.
        residual: [num_tokens, hidden], the residual stream, the dtype of `x`; updated.
        weight: [hidden].
        eps: added to the mean square.

    Returns:
        [num_tokens, hidden], the dtype of `x`.
    """
    residual += x
    return rms_norm(residual, weight, eps)
