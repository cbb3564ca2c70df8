"""SiLU-and-multiply: one read of gate and up, one write of their product."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwire_kernels.triton.sizes import ceil_div

_COLUMNS = 1024


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """See `reference.activation.silu_and_mul`. Rows may be apart; each is contiguous."""
    num_tokens, width = gate_up.shape
    out = torch.empty((num_tokens, width // 2), dtype=gate_up.dtype, device=gate_up.device)
    _silu_and_mul_kernel[(num_tokens, ceil_div(width // 2, _COLUMNS))](
        gate_up, out, gate_up.stride(0), width // 2, COLUMNS=_COLUMNS, num_warps=4
    )
    return out


@triton.jit
def _silu_and_mul_kernel(gate_up_ptr, out_ptr, row_stride, intermediate, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = column < intermediate
    gate = tl.load(gate_up_ptr + row * row_stride + column, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * row_stride + intermediate + column, mask=mask, other=0.0).to(tl.float32)
    product = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + row * intermediate + column, product.to(out_ptr.dtype.element_ty), mask=mask)
