"""The gate of a SwiGLU feed-forward layer (Shazeer, 2020)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from tokenwire_kernels.reference.precision import compute_dtype


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, where silu(x) = x * sigmoid(x).

    Args:
        gate_up: [num_tokens, 2 * intermediate]: the gate's columns, then the up projection's.

    Returns:
        [num_tokens, intermediate], the dtype of `gate_up`.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate.to(compute_dtype(gate.dtype))).mul_(up).to(gate_up.dtype)
