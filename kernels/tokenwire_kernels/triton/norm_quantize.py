"""Residual addition, RMSNorm and quantization in one launch: a token stays in registers from one to the next.

Rounds where the reference does. Bytes: x read once, the residual read and written once, and one byte written
for each number; a quantization of its own would write and read the normalized token once more.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwire_kernels.reference.norm_quantize import LARGEST
from tokenwire_kernels.triton.dependent import launch_options, wait_for_kernels_before
from tokenwire_kernels.triton.norm import norm_warps
from tokenwire_kernels.triton.sizes import next_power_of_2


def rms_norm_quantize(
    x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See `reference.norm_quantize.rms_norm_quantize`. Rows of `x` may be apart; each is contiguous. Codes of
    e4m3 need a GPU of compute capability 8.9."""
    num_tokens, hidden = x.shape
    codes = torch.empty((num_tokens, hidden), dtype=dtype, device=x.device)
    scales = torch.empty(num_tokens, dtype=torch.float32, device=x.device)
    columns = next_power_of_2(hidden)
    if num_tokens > 0:
        _norm_quantize_kernel[(num_tokens,)](
            x, residual, weight, codes, scales, x.stride(0), eps,
            HIDDEN=hidden, COLUMNS=columns, LARGEST=LARGEST[dtype], WHOLE=dtype == torch.int8,
            num_warps=norm_warps(columns), **launch_options(x.device),
        )  # fmt: skip
    return codes, scales


@triton.jit
def _norm_quantize_kernel(
    x_ptr, residual_ptr, weight_ptr, codes_ptr, scales_ptr, x_stride, eps,
    HIDDEN: tl.constexpr, COLUMNS: tl.constexpr, LARGEST: tl.constexpr, WHOLE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    wait_for_kernels_before(DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    mask = column < HIDDEN
    dtype = x_ptr.dtype.element_ty
    x = tl.load(x_ptr + row * x_stride + column, mask=mask, other=0.0).to(tl.float32)
    if residual_ptr is not None:
        residual_ptr += row * HIDDEN + column
        x = (x + tl.load(residual_ptr, mask=mask, other=0.0).to(tl.float32)).to(dtype)
        tl.store(residual_ptr, x, mask=mask)
        x = x.to(tl.float32)
    norm = 1.0 / tl.sqrt_rn(tl.sum(x * x, axis=0) / HIDDEN + eps)
    weight = tl.load(weight_ptr + column, mask=mask, other=0.0).to(tl.float32)
    y = ((x * norm).to(dtype).to(tl.float32) * weight).to(dtype).to(tl.float32)

    scale = tl.div_rn(tl.max(tl.abs(y), axis=0), LARGEST)
    code = tl.where(scale > 0.0, tl.div_rn(y, tl.where(scale > 0.0, scale, 1.0)), 0.0)
    code = tl.minimum(tl.maximum(code, -LARGEST), LARGEST)
    if WHOLE:  # adding 1.5 * 2**23 leaves no room for a fraction: it is rounded, half to even
        code = (code + 12582912.0) - 12582912.0
    tl.store(codes_ptr + row * HIDDEN + column, code.to(codes_ptr.dtype.element_ty), mask=mask)
    tl.store(scales_ptr + row, scale)
