"""Which implementation serves which operator on which device.

Callers name operators only. The choice is made once, at start-up, and is a plain table of functions
afterwards: nothing dispatches per call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib.util import find_spec
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor

from tokenwire_kernels.batch import AttentionBatch, SamplingBatch


class RotaryAndCache(Protocol):
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos: Tensor,
        sin: Tensor,
        positions: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        slots: Tensor,
    ) -> None: ...


class PagedAttention(Protocol):
    def __call__(
        self,
        q: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        batch: AttentionBatch,
        scale: float,
        window: int = 0,
        soft_cap: float = 0.0,
    ) -> Tensor: ...


@dataclass(slots=True, frozen=True)
class Kernels:
    """The operators of a dense decoder. Each is defined by the function of its name under `reference/`."""

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    rotary_and_cache: RotaryAndCache
    paged_attention: PagedAttention
    silu_and_mul: Callable[[Tensor], Tensor]
    greedy: Callable[[Tensor], Tensor]
    sample: Callable[[Tensor, SamplingBatch], Tensor]
    apply_token_bitmask: Callable[[Tensor, Tensor, Tensor], None]


def select_kernels(device: torch.device) -> Kernels:
    """The best implementation of every operator for `device`; the reference where there is no other.

    An implementation is imported only if it is selected: a host without a GPU never loads Triton.
    """
    from tokenwire_kernels import reference

    if _runs_triton(device):
        from tokenwire_kernels import triton

        return _kernels_of(triton)
    return _kernels_of(reference)


def describe_kernels(kernels: Kernels) -> list[tuple[str, str]]:
    """(operator, implementation) for every operator, in declaration order."""
    return [
        (operator.name, getattr(kernels, operator.name).__module__.removeprefix("tokenwire_kernels."))
        for operator in fields(kernels)
    ]


def _kernels_of(package: ModuleType) -> Kernels:
    return Kernels(**{operator.name: getattr(package, operator.name) for operator in fields(Kernels)})


def _runs_triton(device: torch.device) -> bool:
    """NVIDIA, of the generation that brought bfloat16 (sm_80) or newer, with Triton installed."""
    if device.type != "cuda" or torch.version.cuda is None or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)
