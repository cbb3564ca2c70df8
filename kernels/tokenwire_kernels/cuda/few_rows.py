"""The product of one to four rows with a large matrix, in CUDA C++ (`few_rows.cu`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from tokenwire_kernels.batch import RowNorm
from tokenwire_kernels.cuda.module import FLOAT, INT, POINTER, Kernel, compiled
from tokenwire_kernels.triton.target import gpu_of

MOST_ROWS = 4
SOURCE = "few_rows.cu"
_WARPS, _RING = 8, 8
"""Of a block, of which a multiprocessor has one; and steps that each warp has on their way."""
_VECTOR, _STEP = 8, 256
"""Numbers in 16 bytes, which a lane loads at a time, and those that a warp does."""
ARGUMENTS = 6 * [POINTER] + [FLOAT] + 5 * [INT]
_MOST_SPLIT_BITS = 3
_PAIR_STEPS = 2
"""What adding up a pair's parts takes a warp, in steps."""
_RING_BYTES = _WARPS * _RING * 2 * _STEP * 2
"""In shared memory, for steps of two rows of the matrix."""
_MOST_X_BYTES = 48 << 10
"""Behind it, for the rows of x: another kernel must fit beside both."""
MOST_SHARED_BYTES = _RING_BYTES + _MOST_X_BYTES


def takes(x: Tensor, weight: Tensor, norm: RowNorm | None) -> bool:
    """Whether the kernel serves such a product: few rows of 16-bit numbers, in whole steps."""
    num_rows, in_features = x.shape
    return (
        num_rows <= MOST_ROWS
        and x.device.type != "cpu"
        and x.dtype == weight.dtype
        and x.dtype.itemsize == 2
        and in_features % _STEP == 0
        and len(weight) % 2 == 0
        and x.stride(0) % _VECTOR == 0
        and x.stride(1) == 1
        and weight.is_contiguous()
        and x.data_ptr() % 16 == weight.data_ptr() % 16 == 0
        and (norm is None or norm.weight.data_ptr() % 16 == 0)
        and (1 << (num_rows - 1).bit_length()) * in_features * 2 <= _MOST_X_BYTES
    )


def few_rows_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: RowNorm | None,
    is_gated: bool,
    residual: Tensor | None,
) -> Tensor:
    """See `reference.linear.linear`, for what the kernel takes.

    Raises:
        CudaError: it cannot be compiled, or launched.
    """
    num_rows, in_features = x.shape
    num_outputs = weight.shape[0] // 2 if is_gated else weight.shape[0]
    out = x.new_empty(num_rows, num_outputs) if residual is None else residual
    gpu = gpu_of(x.device)
    plan = plan_of(num_rows, weight.shape[0], in_features, gpu.processors)
    kernel_of(plan.rows, is_gated, x.dtype, x.device).launch(
        gpu.processors,
        32 * _WARPS,
        plan.shared_bytes,
        arguments(plan, x, weight, bias, norm, residual, out),
        depends=gpu.launches_dependents,
    )
    return out


@dataclass(slots=True, frozen=True)
class Plan:
    """How a product is shared out."""

    rows: int
    """That the kernel is compiled for."""
    split_bits: int
    """log2 of the warps that share a pair's depth."""
    shared_bytes: int


@cache
def plan_of(num_rows: int, weight_rows: int, in_features: int, processors: int) -> Plan:
    """So many warps share a pair of rows of the matrix that the busiest warp takes the least time."""
    steps, pairs = in_features // _STEP, weight_rows // 2

    def busiest(bits: int) -> int:
        return -(-pairs // (processors * (_WARPS >> bits))) * ((steps >> bits) + _PAIR_STEPS)

    bits = min((bits for bits in range(_MOST_SPLIT_BITS + 1) if steps % (1 << bits) == 0), key=busiest)
    rows = 1 << (num_rows - 1).bit_length()
    return Plan(rows, bits, _RING_BYTES + 2 * rows * in_features)


def arguments(
    plan: Plan,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: RowNorm | None,
    residual: Tensor | None,
    out: Tensor,
) -> list[int | float]:
    """Of the kernel, in its order."""
    return [
        weight.data_ptr(), x.data_ptr(), _address(bias), 0 if norm is None else norm.weight.data_ptr(),
        _address(residual), out.data_ptr(), 0.0 if norm is None else norm.eps,
        *out.shape, x.shape[1] // _VECTOR, x.stride(0), plan.split_bits,
    ]  # fmt: skip


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def defines(dtype: torch.dtype) -> list[str]:
    """What the source is compiled with for numbers of a dtype."""
    return [f"WARPS={_WARPS}", f"RING={_RING}", f"BFLOAT16={int(dtype == torch.bfloat16)}"]


@cache
def kernel_of(rows: int, is_gated: bool, dtype: torch.dtype, device: torch.device) -> Kernel:
    """The kernel for so many rows, compiled when it is first asked for.

    Raises:
        CudaError: it cannot be compiled.
    """
    cubin = compiled(SOURCE, defines(dtype), gpu_of(device).capability)
    return Kernel(cubin, f"few_rows_{rows}_{int(is_gated)}", ARGUMENTS, MOST_SHARED_BYTES, device)
