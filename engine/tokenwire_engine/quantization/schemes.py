"""The schemes: a weight is a small integer times a scale that it shares with others of its row."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(slots=True, frozen=True)
class Scheme:
    """Symmetric integers of `bits` bits; every `group_size` inputs of an output share a scale."""

    name: str
    bits: int
    group_size: int
    """0: all inputs of an output share one."""

    @property
    def largest(self) -> int:
        """The largest code; the least is -largest - 1."""
        return (1 << self.bits - 1) - 1


@dataclass(slots=True, frozen=True)
class QuantizedMatrix:
    """A matrix `[n, k]` in a scheme: weight[i, j] = codes[i, j] * scales[i, j // group_size]."""

    codes: Tensor
    """int8 `[n, k]`."""
    scales: Tensor
    """float32 `[n, groups]`; for fewer than 8 bits each is a float16 number."""


INT8 = Scheme("int8", bits=8, group_size=0)
INT4 = Scheme("int4", bits=4, group_size=32)

SCHEMES = {scheme.name: scheme for scheme in (INT8, INT4)}
"""By the name that `--quantization` takes."""
