"""Every operator is tested in every implementation: the reference, Triton (natively on a GPU, else under its
interpreter), and the native CPU kernels with each instruction set that this machine has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from tests import interpreter
from tests.kernels.native import native_instruction_sets, operators_of
from tokenwire_kernels import reference
from tokenwire_kernels import triton as triton_kernels
from tokenwire_kernels.cpu import Operators

interpreter.prepare_once()


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(params=["reference", "triton", *native_instruction_sets()])
def kernels(request: pytest.FixtureRequest) -> ModuleType | Operators:
    """One implementation of all operators."""
    modules = {"reference": reference, "triton": triton_kernels}
    if request.param in modules:
        return modules[request.param]
    if torch.cuda.is_available():
        pytest.skip("inputs are on the GPU")
    return operators_of(request.param)


@pytest.fixture(autouse=True)
def _fresh_inputs(device: torch.device) -> Iterator[None]:
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"torch.manual_seed({seed}) makes these inputs again")
    torch.manual_seed(seed)
    torch.set_default_device(device)
    yield
    torch.set_default_device("cpu")
