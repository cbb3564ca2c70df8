"""A product of few rows with a large matrix: the matrix is read once, as fast as the memory gives it.

The matrix is the left operand, whose rows fill the tensor cores' tiles, and the few rows of x, padded to 16,
32 or 64, the right one. A program takes a tile of outputs and a part of the depth (split-K), so that narrow
matrices, too, keep every multiprocessor busy; the program that finishes a tile last adds up its parts, always
in the same order. What stands behind the product in a decoder happens in the same launch: bias, gate and
residual, rounded where the reference rounds. (A normalization of x in every program took longer than one in a
launch of its own.)

Bytes: out_features * in_features * itemsize; all else is small. Time: bytes over the read bandwidth.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwire_kernels.triton.dependent import launch_options, wait_for_kernels_before
from tokenwire_kernels.triton.sizes import ceil_div, next_power_of_2

MOST_ROWS = 64
_MOST_TILES = 1 << 16


@dataclass(slots=True, frozen=True)
class StreamTile:
    """What one program takes, and how."""

    outputs: int
    """Rows of the matrix; of a gated one, of each half."""
    depth: int
    """Columns of the matrix under way in one stage."""
    splits: int
    """Programs that share the depth."""
    warps: int
    stages: int


def few_rows_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    is_gated: bool,
    residual: Tensor | None,
    tile: StreamTile,
) -> Tensor:
    """See `reference.linear.linear`, for at most `MOST_ROWS` rows that are normalized already."""
    num_rows, in_features = x.shape
    num_outputs = weight.shape[0] // 2 if is_gated else weight.shape[0]
    out = x.new_empty(num_rows, num_outputs) if residual is None else residual
    rows = max(16, next_power_of_2(num_rows))
    num_tiles = ceil_div(num_outputs, tile.outputs)
    parts, counters = None, None
    if tile.splits > 1:
        products = 2 if is_gated else 1
        parts = x.new_empty(num_tiles * tile.splits * products * tile.outputs * rows, dtype=torch.float32)
        counters = _counters(x.device)
    _few_rows_kernel[(num_tiles, tile.splits)](
        x, weight, bias, residual, out, parts, counters, num_rows, num_outputs, in_features, x.stride(0),
        GATED=is_gated, SPLITS=tile.splits, EVEN=in_features % (tile.depth * tile.splits) == 0,
        ROWS=rows, OUTPUTS=tile.outputs, DEPTH=tile.depth,
        num_warps=tile.warps, num_stages=tile.stages, **launch_options(x.device),
    )  # fmt: skip
    return out


@cache
def _counters(device: torch.device) -> Tensor:
    """For each tile, how many of its programs have finished: 0 between launches, of which one runs at a
    time. Made by the first launch, which is never a captured one."""
    return torch.zeros(_MOST_TILES, dtype=torch.int32, device=device)


@triton.jit(do_not_specialize=["num_rows"])
def _few_rows_kernel(
    x_ptr, weight_ptr, bias_ptr, residual_ptr, out_ptr, parts_ptr, counters_ptr,
    num_rows, num_outputs, in_features, x_stride,
    GATED: tl.constexpr, SPLITS: tl.constexpr, EVEN: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    tile, split = tl.program_id(0), tl.program_id(1)
    dtype = x_ptr.dtype.element_ty
    row = tl.arange(0, ROWS)[None, :]
    output = (tile * OUTPUTS + tl.arange(0, OUTPUTS))[:, None]
    is_row, is_output = row < num_rows, output < num_outputs
    x_row_ptr = x_ptr + row * x_stride
    weight_row_ptr = weight_ptr + output.to(tl.int64) * in_features
    up_row_ptr = weight_row_ptr + num_outputs.to(tl.int64) * in_features

    part_depth = tl.cdiv(tl.cdiv(in_features, DEPTH), SPLITS) * DEPTH
    begin = split * part_depth
    wait_for_kernels_before(DEPENDENT)

    product = tl.zeros([OUTPUTS, ROWS], tl.float32)
    product_up = tl.zeros([OUTPUTS, ROWS], tl.float32)
    for start in range(begin, tl.minimum(begin + part_depth, in_features), DEPTH):
        at = start + tl.arange(0, DEPTH)
        x_mask, weight_mask = is_row, is_output
        if not EVEN:
            x_mask = x_mask & (at < in_features)[:, None]
            weight_mask = weight_mask & (at < in_features)[None, :]
        weights = tl.load(
            weight_row_ptr + at[None, :], mask=weight_mask, other=0.0, eviction_policy="evict_first"
        )
        x = tl.load(x_row_ptr + at[:, None], mask=x_mask, other=0.0)
        product = tl.dot(weights, x, product, input_precision="tf32x3")
        if GATED:
            weights = tl.load(
                up_row_ptr + at[None, :], mask=weight_mask, other=0.0, eviction_policy="evict_first"
            )
            product_up = tl.dot(weights, x, product_up, input_precision="tf32x3")

    is_last = True
    if SPLITS > 1:
        PRODUCTS: tl.constexpr = 2 if GATED else 1
        PART: tl.constexpr = PRODUCTS * OUTPUTS * ROWS
        within = tl.arange(0, OUTPUTS)[:, None] * ROWS + row
        tile_ptr = parts_ptr + tile.to(tl.int64) * SPLITS * PART + within
        tl.store(tile_ptr + split * PART, product)
        if GATED:
            tl.store(tile_ptr + split * PART + OUTPUTS * ROWS, product_up)
        tl.debug_barrier()  # all of this program's part is written before it is counted
        is_last = tl.atomic_add(counters_ptr + tile, 1, sem="acq_rel") == SPLITS - 1
        if is_last:
            tl.store(counters_ptr + tile, 0)
            product = tl.zeros([OUTPUTS, ROWS], tl.float32)
            product_up = tl.zeros([OUTPUTS, ROWS], tl.float32)
            for part in range(SPLITS):
                product += tl.load(tile_ptr + part * PART, cache_modifier=".cg")
                if GATED:
                    product_up += tl.load(tile_ptr + part * PART + OUTPUTS * ROWS, cache_modifier=".cg")

    if is_last:
        if bias_ptr is not None:
            product += tl.load(bias_ptr + output, mask=is_output, other=0.0).to(tl.float32)
        y = product.to(dtype)
        if GATED:
            if bias_ptr is not None:
                bias = tl.load(bias_ptr + num_outputs + output, mask=is_output, other=0.0)
                product_up += bias.to(tl.float32)
            gate = y.to(tl.float32)
            y = (gate / (1.0 + tl.exp(-gate)) * product_up.to(dtype).to(tl.float32)).to(dtype)
        at_out = row.to(tl.int64) * num_outputs + output
        if residual_ptr is not None:
            before = tl.load(residual_ptr + at_out, mask=is_row & is_output, other=0.0)
            y = (before.to(tl.float32) + y.to(tl.float32)).to(dtype)
        tl.store(out_ptr + at_out, y, mask=is_row & is_output)
