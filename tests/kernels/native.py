"""The native kernels under test: one context for each instruction set that this machine has."""

from __future__ import annotations

from functools import cache

import pytest

from tokenwire_kernels.cpu import Context, NativeError, Operators, instruction_sets, load_library


def native_instruction_sets() -> list[str]:
    """Empty where the kernels were not compiled."""
    try:
        return instruction_sets(load_library())
    except NativeError:
        return []


needs_native = pytest.mark.skipif(
    not native_instruction_sets(), reason="the native kernels were not compiled"
)


@cache
def context_of(instruction_set: str) -> Context:
    return Context(2, instruction_set=instruction_set)


@cache
def operators_of(instruction_set: str) -> Operators:
    return Operators(context_of(instruction_set))
