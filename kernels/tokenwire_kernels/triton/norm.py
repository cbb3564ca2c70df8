"""RMSNorm, alone and fused with the residual addition: one read and one write of every activation.

Rounds exactly where the reference does: the sum to the residual's dtype, the normalized value to the
input's dtype, the product with the weight once more.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwire_kernels.triton.dependent import launch_options, wait_for_kernels_before

_TILE = 1024
"""Elements that a program normalizes at least, so that short rows (a head's query or key) share one."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `reference.norm.rms_norm`. Rows may be apart, as the heads in one part of a fused qkv are."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rows = x.view(-1, 1, x.shape[-1]) if x.is_contiguous() else x.unflatten(0, (-1, 1)) if x.dim() == 2 else x
    if rows.dim() != 3 or rows.stride(-1) != 1:
        rows = x.reshape(-1, 1, x.shape[-1])
    _launch(rows, None, weight, out, eps)
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `reference.norm.add_rms_norm`. Both inputs are contiguous."""
    out = torch.empty_like(x)
    _launch(x.view(-1, 1, x.shape[-1]), residual, weight, out, eps)
    return out


def _launch(x: Tensor, residual: Tensor | None, weight: Tensor, out: Tensor, eps: float) -> None:
    """x [outer, inner, hidden] with any strides; residual and out contiguous, [outer * inner, hidden]."""
    outer, inner, hidden = x.shape
    columns = triton.next_power_of_2(hidden)
    rows = max(1, _TILE // columns)
    _rms_norm_kernel[(triton.cdiv(outer * inner, rows),)](
        x, x if residual is None else residual, weight, out,
        outer * inner, inner, x.stride(0), x.stride(1), eps,
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
