"""Root-mean-square normalization (Zhang and Sennrich, 2019): x / rms(x) * weight over the last dimension.

It is no layer of its own: it belongs to the product that reads what it gives.
"""

from __future__ import annotations

from tokenwire_engine.weights.reader import Piece, WeightReader
from tokenwire_kernels import RowNorm


def load_norm(reader: WeightReader, name: str, size: int, eps: float) -> RowNorm:
    """The norm called `name` over `size` features.

    Raises:
        ModelError: its weight is missing or has the wrong shape or dtype.
    """
    return RowNorm(reader.read(Piece(f"{name}.weight", (size,))), eps)
