"""The one table of shapes and dtypes over which implementations are compared, and how close they must be."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

DTYPES = [
    pytest.param(torch.float32, id="float32"),
    pytest.param(torch.float16, id="float16"),
    pytest.param(torch.bfloat16, id="bfloat16"),
]
ROWS = [(1, 64), (5, 96), (3, 576), (2, 1536)]
"""(tokens, hidden): powers of two and others, narrower and wider than a tile."""


@dataclass(slots=True, frozen=True)
class Heads:
    """The shape of an attention layer and its cache."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    block_size: int

    def __str__(self) -> str:
        return f"{self.num_heads}x{self.head_dim}over{self.num_kv_heads}-block{self.block_size}"


HEADS = [
    Heads(1, 1, 64, 16),
    Heads(6, 2, 80, 16),
    Heads(4, 4, 96, 32),
    Heads(8, 2, 128, 128),
    Heads(5, 1, 192, 64),
    Heads(2, 1, 256, 16),
]

SEQUENCES = [
    pytest.param([(1, 1)], id="first-token"),
    pytest.param([(1, 17), (1, 33), (1, 150)], id="decodes"),
    pytest.param([(40, 40)], id="whole-prompt"),
    pytest.param([(1, 31), (1, 64), (7, 7), (1, 20), (35, 90)], id="mixed"),
]
"""(query tokens, context) of each sequence, decodes first; a one-token chunk among the chunks is one too."""


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Within a few roundings of `actual`'s dtype of the float64 `expected`."""
    assert expected.dtype == torch.float64
    step = {torch.float32: 2e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}[actual.dtype]
    torch.testing.assert_close(actual.double(), expected, rtol=3 * step, atol=3 * step)
