"""RMSNorm, alone and fused with the residual addition: one read and one write of every activation.

Rounds exactly where the reference does: the sum to the residual's dtype, the normalized value to the
input's dtype, the product with the weight once more.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwire_kernels.triton.dependent import launch_options, wait_for_kernels_before
from tokenwire_kernels.triton.sizes import ceil_div, next_power_of_2

_TILE = 1024
"""Elements that a program normalizes at least, so that short rows (a head's query or key) share one."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `reference.norm.rms_norm`. Rows may be apart, as the heads in one part of a fused qkv are."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    strides = x.stride()
    if len(strides) == 3 and strides[2] == 1:
        outer, inner = x.shape[:2]
    else:
        if len(strides) != 2 or strides[1] != 1:
            x = x.reshape(-1, x.shape[-1])
        outer, inner, strides = len(x), 1, (x.stride(0), 0)
    _launch(x, outer, inner, strides, None, weight, out, eps)
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `reference.norm.add_rms_norm`. Both inputs are contiguous."""
    out = torch.empty_like(x)
    num_rows = x.numel() // x.shape[-1]
    _launch(x, num_rows, 1, (x.shape[-1], 0), residual, weight, out, eps)
    return out


def _launch(
    x: Tensor,
    outer: int,
    inner: int,
    strides: Sequence[int],
    residual: Tensor | None,
    weight: Tensor,
    out: Tensor,
    eps: float,
) -> None:
    """x as [outer, inner, hidden], its rows that far apart; residual and out contiguous, [outer * inner,
    hidden]."""
    hidden = x.shape[-1]
    columns = next_power_of_2(hidden)
    rows = max(1, _TILE // columns)
    _rms_norm_kernel[(ceil_div(outer * inner, rows),)](
        x, x if residual is None else residual, weight, out,
        outer * inner, inner, strides[0], strides[1], eps,
        HIDDEN=hidden, COLUMNS=columns, ROWS=rows, ADD=residual is not None,
        num_warps=norm_warps(columns), **launch_options(x.device),
    )  # fmt: skip


def norm_warps(columns: int) -> int:
    """Warps for rows of that many (padded) columns: 8 to 16 elements per thread."""
    return min(16, max(4, columns // 512))


@triton.jit(do_not_specialize=["num_rows"])
def _rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, out_ptr,
    num_rows, inner, x_outer_stride, x_inner_stride, eps,
    HIDDEN: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, ADD: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    wait_for_kernels_before(DEPENDENT)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    mask = (row < num_rows) & (column < HIDDEN)
    x_row = (row // inner).to(tl.int64) * x_outer_stride + (row % inner) * x_inner_stride
    row_start = row.to(tl.int64) * HIDDEN
    dtype = out_ptr.dtype.element_ty

    x = tl.load(x_ptr + x_row + column, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        x += tl.load(residual_ptr + row_start + column, mask=mask, other=0.0).to(tl.float32)
        x = x.to(dtype)
        tl.store(residual_ptr + row_start + column, x, mask=mask)
        x = x.to(tl.float32)
    scale = 1.0 / tl.sqrt_rn(tl.sum(x * x, axis=1)[:, None] / HIDDEN + eps)
    normalized = (x * scale).to(dtype).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=column < HIDDEN, other=0.0).to(tl.float32)
    tl.store(out_ptr + row_start + column, (normalized * weight).to(dtype), mask=mask)
