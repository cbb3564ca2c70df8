"""One operator at one shape: what is to be called, what it moves and computes at least, and who else can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.gpu.peers import Peer
from benchmarks.gpu.section import Context
from benchmarks.gpu.timing import Call


@dataclass(slots=True)
class Case:
    """What is measured."""

    operator: str
    shape: str
    bytes: int
    """The fewest that can be moved."""
    make: Callable[[], Call]
    """A call on inputs of its own."""
    flops: int = 0
    """0: memory is what it waits for."""
    peers: list[Peer] = field(default_factory=list)


def randn(context: Context, *shape: int) -> Tensor:
    """Random bfloat16 numbers on the device."""
    return torch.randn(*shape, device=context.device, dtype=torch.bfloat16)
