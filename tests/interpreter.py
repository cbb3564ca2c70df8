"""Triton's interpreter, made to prepare its language once for a kernel instead of for each function in it.

Without a GPU the interpreter runs a kernel as Python, with its language's functions exchanged for ones that
compute. It exchanges them as a kernel begins and puts the old ones back as it ends, which is right; and once
more for each call of a function of the kernel, which changes nothing after the first and takes a third of the
time.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Protocol

import triton.language as tl
from triton.runtime import interpreter


class Scope(Protocol):
    """What was exchanged."""

    def restore(self) -> None: ...


def prepare_once() -> None:
    """From now on, within a running kernel nothing is exchanged twice."""
    prepare = getattr(interpreter, "_patch_lang", None)  # another version of Triton may be without
    if prepare is not None and not isinstance(prepare, _Once):
        interpreter._patch_lang = _Once(prepare)


class _Once:
    """The interpreter's exchange, which remembers what it did for the kernel that runs."""

    def __init__(self, exchange: Callable[[FunctionType], Scope]) -> None:
        self._exchange = exchange
        self._exchanged: set[tuple[ModuleType, ...]] = set()

    def __call__(self, function: FunctionType) -> Scope | None:
        # What is exchanged are the modules of the language that the function's module names.
        named = tuple(module for module in (tl, tl.core) if module in function.__globals__.values())
        if named in self._exchanged:
            return None  # to a function of the kernel, which ignores it
        is_kernel = not self._exchanged
        self._exchanged.add(named)
        scope = self._exchange(function)
        return _Kernel(scope, self._exchanged) if is_kernel else scope


class _Kernel:
    """What was exchanged for a kernel, and with its end is not any more."""

    def __init__(self, scope: Scope, exchanged: set[tuple[ModuleType, ...]]) -> None:
        self._scope = scope
        self._exchanged = exchanged

    def restore(self) -> None:
        self._scope.restore()
        self._exchanged.clear()
