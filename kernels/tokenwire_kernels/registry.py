"""Which implementation serves which operator on which device.

Callers name operators only. The choice is made once, at start-up, and is a plain table of functions
afterwards. It is revised in one case: a Triton kernel, which is compiled when it is first called, does not
compile on this GPU (`fallback.py`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

from tokenwire_kernels.batch import (
    AttentionBatch,
    DecodeRows,
    HeadNorms,
    LayerCache,
    PenaltyBatch,
    RowNorm,
    SamplingBatch,
)
from tokenwire_kernels.cpu.library import Context, NativeError
from tokenwire_kernels.fallback import Fallback, implementation_of
from tokenwire_kernels.layers import FuseLayers

logger = logging.getLogger(__name__)


class RotaryAndCache(Protocol):
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos: Tensor,
        sin: Tensor,
        positions: Tensor,
        cache: LayerCache,
        slots: Tensor,
        norms: HeadNorms | None = None,
    ) -> None: ...


class PagedAttention(Protocol):
    def __call__(
        self,
        q: Tensor,
        cache: LayerCache,
        batch: AttentionBatch,
        scale: float,
        window: int = 0,
        soft_cap: float = 0.0,
        sinks: Tensor | None = None,
    ) -> Tensor: ...


class NormQuantize(Protocol):
    def __call__(
        self, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype, residual: Tensor | None = None
    ) -> tuple[Tensor, Tensor]: ...


class LinearOperator(Protocol):
    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        norm: RowNorm | None = None,
        is_gated: bool = False,
        residual: Tensor | None = None,
    ) -> Tensor: ...


@dataclass(slots=True, frozen=True)
class Kernels:
    """The operators of a dense decoder. Each is defined by the function of its name under `reference/`."""

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    rms_norm_quantize: NormQuantize
    linear: LinearOperator
    rotary_and_cache: RotaryAndCache
    paged_attention: PagedAttention
    silu_and_mul: Callable[[Tensor], Tensor]
    greedy: Callable[[Tensor], Tensor]
    sample: Callable[[Tensor, SamplingBatch], Tensor]
    score_tokens: Callable[[Tensor, Tensor | None, Tensor, int], tuple[Tensor, Tensor]]
    apply_penalties: Callable[[Tensor, Tensor, Tensor, PenaltyBatch], None]
    apply_token_bitmask: Callable[[Tensor, Tensor, Tensor], None]
    advance_decodes: Callable[[DecodeRows, Tensor], None]
    gather_block_tables: Callable[[DecodeRows, Tensor, Tensor, Tensor, int], None]
    record_tokens: Callable[[Tensor, DecodeRows, Tensor, Tensor], None]
    copy_blocks: Callable[[Sequence[Tensor], Tensor, Tensor], None]
    gather_blocks: Callable[[Sequence[Tensor], Tensor, Tensor], None]
    scatter_blocks: Callable[[Tensor, Sequence[Tensor], Tensor], None]
    native: Context | None = None
    """What computes the native operators of a CPU, and products with packed weights; else None."""
    fuse_layers: FuseLayers | None = None
    """Makes one operator of all layers, where there is such a kernel."""

    @property
    def fallen_back(self) -> list[str]:
        """Operators whose kernel did not compile; what serves them may wait for the device."""
        operators = ((name, getattr(self, name)) for name in _OPERATORS)
        return [name for name, operator in operators if isinstance(operator, Fallback) and operator.fell_back]


def select_kernels(device: torch.device, instruction_set: str | None = None) -> Kernels:
    """The best implementation of every operator for `device`; the reference where there is no other.

    An implementation is imported only if it is selected: a host without a GPU never loads Triton.

    Args:
        instruction_set: of a CPU, such as "avx2"; None: its strongest; "torch": none, the reference.

    Raises:
        NativeError: an instruction set was asked for that is not there.
    """
    from tokenwire_kernels import reference

    if _runs_triton(device):
        from tokenwire_kernels import triton

        return _guarded(_kernels_of(triton), device)
    if device.type == "cpu" and instruction_set != "torch":
        from tokenwire_kernels.cpu.operators import Operators

        try:
            context = open_context(instruction_set)
        except NativeError as error:
            if instruction_set is not None:
                raise
            logger.warning("%s: torch computes instead, which is slower", error)
        else:
            return _kernels_of(Operators(context), context)
    return _kernels_of(reference)


def open_context(instruction_set: str | None = None) -> Context:
    """Native threads: as many as torch has, each on a CPU of its own when that is all that are allowed.

    Raises:
        NativeError: the library or the instruction set is not there.
    """
    num_threads = torch.get_num_threads()
    cpus = sorted(os.sched_getaffinity(0))
    return Context(num_threads, cpus if len(cpus) == num_threads else None, instruction_set)


def describe_kernels(kernels: Kernels) -> list[tuple[str, str]]:
    """(operator, implementation) for every operator, in declaration order, and for all layers at once where
    there is one."""
    described = [(name, implementation_of(getattr(kernels, name))) for name in _OPERATORS]
    if kernels.fuse_layers is not None:
        described.append(("layers", implementation_of(kernels.fuse_layers)))
    return described


_OPERATORS = [operator.name for operator in fields(Kernels) if operator.default is MISSING]


def _kernels_of(implementations: object, native: Context | None = None) -> Kernels:
    return Kernels(**{name: getattr(implementations, name) for name in _OPERATORS}, native=native)


def _guarded(kernels: Kernels, device: torch.device) -> Kernels:
    """Triton's kernels, in front of them what there is in CUDA C++ or for the GPU's generation alone, and the
    reference behind."""
    from tokenwire_kernels import reference
    from tokenwire_kernels.cuda import layers, linear, module

    guards: dict[str, Any] = {
        name: Fallback(name, getattr(kernels, name), getattr(reference, name)) for name in _OPERATORS
    }
    if module.is_available():
        guards["linear"] = Fallback("linear", linear.linear, kernels.linear, reference.linear)
        guards["fuse_layers"] = layers.fuse_layers
    if (hopper := _hopper_attention(device)) is not None:
        name, others = "paged_attention", (kernels.paged_attention, reference.paged_attention)
        guards[name] = Fallback(name, hopper.paged_attention, *others)
    return replace(kernels, **guards)


def _hopper_attention(device: torch.device) -> ModuleType | None:
    """None on other generations of GPUs, and where Triton has no Gluon, or another: it is experimental."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) != (9, 0):
        return None
    try:
        return import_module("tokenwire_kernels.triton.hopper_attention")
    except (ImportError, AttributeError):
        return None


def _runs_triton(device: torch.device) -> bool:
    """NVIDIA, of the generation that brought bfloat16 (sm_80) or newer, with Triton installed."""
    if device.type != "cuda" or torch.version.cuda is None or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)
