"""The GPU that kernels are shaped for: its generation and its size, never its state.

Tensors that are not on a GPU are interpreted, or compiled ahead of time: for them the GPU is assumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch


@dataclass(slots=True, frozen=True)
class Gpu:
    """What decides tile sizes and grids."""

    capability: int
    """Compute capability, 80 for 8.0."""
    processors: int
    """Streaming multiprocessors."""
    launches_dependents: bool = False
    """Whether kernels begin before those ahead of them have ended (`dependent.py`)."""


AMPERE, HOPPER, BLACKWELL = Gpu(80, 108), Gpu(90, 132), Gpu(100, 148)
"""An A100, an H200 and a B200."""
_assumed = Gpu(90, 4)
"""Few processors, so that the interpreter has few programs to run."""
_launches_dependents = False
"""With it, an H200 took 2 to 5 % less for a step of Llama-3.2-1B, and 9 to 13 % more for Llama-3.1-8B."""


def gpu_of(device: torch.device) -> Gpu:
    """The GPU that tensors of a device are computed on."""
    return _gpu(device) if device.type == "cuda" else _assumed


@contextmanager
def assuming(gpu: Gpu) -> Iterator[None]:
    """Shape kernels for `gpu` where tensors are on none."""
    global _assumed
    before, _assumed = _assumed, gpu
    try:
        yield
    finally:
        _assumed = before


def launch_dependents(does: bool = True) -> None:
    """Let kernels begin early, on GPUs that can; what was captured before stays as it was."""
    global _launches_dependents
    _launches_dependents = does
    _gpu.cache_clear()


@cache
def _gpu(device: torch.device) -> Gpu:
    properties = torch.cuda.get_device_properties(device)
    capability = 10 * properties.major + properties.minor
    return Gpu(
        capability,
        properties.multi_processor_count,
        launches_dependents=_launches_dependents and capability >= 90,
    )
