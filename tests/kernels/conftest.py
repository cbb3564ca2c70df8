"""Every operator is tested in both implementations, natively on a GPU and else under Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from tokenwire_kernels import reference
from tokenwire_kernels import triton as triton_kernels


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(params=["reference", "triton"])
def kernels(request: pytest.FixtureRequest) -> ModuleType:
    """One implementation of all operators."""
    return {"reference": reference, "triton": triton_kernels}[request.param]


@pytest.fixture(autouse=True)
def _fresh_inputs(device: torch.device) -> Iterator[None]:
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"torch.manual_seed({seed}) makes these inputs again")
    torch.manual_seed(seed)
    torch.set_default_device(device)
    yield
    torch.set_default_device("cpu")
