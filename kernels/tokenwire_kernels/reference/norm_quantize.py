"""RMSNorm whose result leaves in 8 bits, with a scale for each token: what a product of quantized matrices
takes in."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwire_kernels.reference.norm import rms_norm
from tokenwire_kernels.reference.precision import compute_dtype

LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
"""What the largest number of a token becomes, by the dtype of its codes."""


def rms_norm_quantize(
    x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """y = rms_norm(x), or rms_norm(residual += x), as codes * scales: dynamic quantization per token.

    scale = max |y| / L and code = y / scale, rounded to the nearest (half to even); L is 127 for int8 and
    448 for e4m3. A token of zeros has the scale 0.

    Args:
        x: [num_tokens, hidden], any float dtype.
        weight: [hidden], the dtype of `x`.
        eps: added to the mean square.
        dtype: of the codes: int8 or float8_e4m3fn.
        residual: [num_tokens, hidden], the dtype of `x`, contiguous; updated. None: there is none to add.

    Returns:
        Codes [num_tokens, hidden] in `dtype`, and scales float32 [num_tokens] (float64 of float64 inputs). y
        is rounded to the dtype of `x` before, as by `rms_norm`.
    """
    if residual is not None:
        residual += x
        x = residual
    y = rms_norm(x, weight, eps).to(compute_dtype(x.dtype))
    scales = y.abs().amax(dim=-1, keepdim=True).div_(LARGEST[dtype])
    codes = torch.where(scales > 0, y / scales, 0.0)
    if dtype == torch.int8:
        codes.round_()
    return codes.clamp_(-LARGEST[dtype], LARGEST[dtype]).to(dtype), scales[:, 0]
