"""Root-mean-square normalization (Zhang and Sennrich, 2019)."""

from __future__ import annotations

from torch import Tensor

from tokenwire_engine.weights.reader import Piece, WeightReader
from tokenwire_kernels import Kernels


class RMSNorm:
    """x / rms(x) * weight over the last dimension."""

    __slots__ = ("eps", "kernels", "weight")

    def __init__(self, weight: Tensor, eps: float, kernels: Kernels) -> None:
        self.weight = weight
        self.eps = eps
        self.kernels = kernels

    def __call__(self, x: Tensor) -> Tensor:
        """Normalize `x` `[..., size]`."""
        return self.kernels.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """Add `x` to `residual` in place, and normalize the sum."""
        return self.kernels.add_rms_norm(x, residual, self.weight, self.eps)


def load_norm(reader: WeightReader, name: str, size: int, eps: float, kernels: Kernels) -> RMSNorm:
    return RMSNorm(reader.read(Piece(f"{name}.weight", (size,))), eps, kernels)
