"""Which kernels an operator launches, and with what, found without carrying any of them out.

The operator runs on tensors that have no memory, with a recorder in the place of every kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.runtime.jit import JITFunction

_TYPE_NAMES = {
    torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16",
    torch.int32: "*i32", torch.int64: "*i64", torch.float8_e4m3fn: "*fp8e4nv",
    torch.uint8: "*u8", torch.int8: "*i8", torch.bool: "*i1",
}  # fmt: skip
_OPTIONS = ("num_warps", "num_stages", "maxnreg", "launch_pdl")
"""Of a launch: arguments for Triton, not for the kernel."""


@dataclass(slots=True, frozen=True)
class Specialization:
    """What a kernel is compiled for: arguments that differ in nothing else share a binary."""

    types: dict[str, str]
    constants: dict[tuple[int], Any]
    attributes: dict[tuple[int], list[list[Any]]]
    """Which pointers and integers 16 divides."""


@dataclass(slots=True, frozen=True)
class Launch:
    """One kernel with the arguments that an operator gave it."""

    kernel: str
    case: str
    function: Any
    arguments: dict[str, Any]
    options: dict[str, Any]

    @property
    def least_capability(self) -> int:
        """The first of the generations that has the arguments' number formats."""
        fp8 = any(isinstance(x, Tensor) and x.dtype == torch.float8_e4m3fn for x in self.arguments.values())
        return 90 if fp8 else 80

    @property
    def specialization(self) -> Specialization:
        """As Triton would make it of the arguments; pointers are taken to be aligned."""
        found = Specialization({}, {}, {})
        for index, (parameter, (name, value)) in enumerate(
            zip(self.function.params, self.arguments.items(), strict=True)
        ):
            is_specialized = not parameter.do_not_specialize
            is_one = is_specialized and type(value) is int and value == 1
            if parameter.is_constexpr or value is None or is_one:
                found.types[name], found.constants[(index,)] = "constexpr", value
            elif isinstance(value, Tensor):
                found.types[name] = _TYPE_NAMES[value.dtype]
                found.attributes[(index,)] = [["tt.divisibility", 16]]
            elif isinstance(value, TensorDescriptor):
                element = _TYPE_NAMES[value.base.dtype].removeprefix("*")
                found.types[name] = f"tensordesc<{element}{list(value.block_shape)},{value.layout!r}>"
            elif isinstance(value, float):
                found.types[name] = "fp32"
            else:
                found.types[name] = "i32"
                if is_specialized and value % 16 == 0:
                    found.attributes[(index,)] = [["tt.divisibility", 16]]
        return found


def recorded(case: str, modules: list[ModuleType], operator: Callable[[], object]) -> list[Launch]:
    """The launches that an operator makes of the modules' kernels, none of which is carried out."""
    found: list[Launch] = []
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(_recording(module, case, found))
        operator()
    return found


@contextmanager
def _recording(module: ModuleType, case: str, found: list[Launch]) -> Iterator[None]:
    kernels = {name: value for name, value in vars(module).items() if isinstance(value, JITFunction)}
    try:
        for name, function in kernels.items():
            setattr(module, name, _Recorder(name, function, case, found))
        yield
    finally:
        for name, function in kernels.items():
            setattr(module, name, function)


@dataclass(slots=True)
class _Recorder:
    """Stands where a kernel was; `recorder[grid](...)` notes the arguments."""

    name: str
    function: Any
    case: str
    found: list[Launch]

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return self._note

    def _note(self, *positional: Any, **named: Any) -> None:
        names = [parameter.name for parameter in self.function.params]
        options: dict[str, Any] = {key: named.pop(key) for key in _OPTIONS if key in named}
        given = {**dict(zip(names, positional, strict=False)), **named}
        arguments = {name: given[name] for name in names}
        kernel = self.name.strip("_").removesuffix("_kernel")
        self.found.append(Launch(kernel, self.case, self.function, arguments, options))
