"""In which precision an operator computes: float32, or float64 for float64 inputs."""

from __future__ import annotations

import torch


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision that arithmetic on tensors of `dtype` is done in."""
    return torch.promote_types(dtype, torch.float32)
