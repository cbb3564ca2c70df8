"""A Triton kernel that does not compile makes way for the reference; any other error is the caller's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources, PTXASError

from tokenwire_kernels import reference
from tokenwire_kernels import registry as kernel_registry
from tokenwire_kernels.fallback import Fallback
from tokenwire_kernels.registry import describe_kernels, select_kernels


def refusing(error: Exception) -> Any:
    def silu_and_mul(gate_up: Tensor) -> Tensor:
        raise error

    silu_and_mul.__module__ = "tokenwire_kernels.triton.activation"
    return silu_and_mul


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PTXASError("ptxas fatal: no such target\nand more"), "PTXAS error: ptxas fatal: no such target"),
        (OutOfResources(300_000, 232_448, "shared memory"), "out of resource: shared memory"),
        (RuntimeError("PassManager::run failed"), "PassManager::run failed"),
    ],
    ids=["ptxas", "resources", "passes"],
)
def test_a_kernel_that_does_not_compile_makes_way_for_the_reference(
    error: Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    operator = Fallback("silu_and_mul", refusing(error), reference.silu_and_mul)
    gate_up = torch.randn(3, 8)
    for _ in range(2):
        assert torch.equal(operator(gate_up), reference.silu_and_mul(gate_up))
    assert operator.fell_back
    (message,) = caplog.messages
    assert message.startswith("silu_and_mul: triton.activation does not compile on this GPU (" + reason)
    assert message.endswith("reference.activation computes instead, which is slower")


def test_what_has_nothing_to_do_with_compiling_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    operator = Fallback(
        "silu_and_mul", refusing(torch.OutOfMemoryError("CUDA out of memory")), reference.silu_and_mul
    )
    with pytest.raises(torch.OutOfMemoryError):
        operator(torch.randn(3, 8))
    assert not operator.fell_back
    assert caplog.messages == []


def test_the_table_names_what_serves_now(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenwire_kernels import triton

    monkeypatch.setattr(kernel_registry, "_runs_triton", lambda device: True)
    monkeypatch.setattr(triton, "silu_and_mul", refusing(PTXASError("no")))
    kernels = select_kernels(torch.device("cpu"))
    before = dict(describe_kernels(kernels))
    kernels.silu_and_mul(torch.randn(3, 8))
    after = dict(describe_kernels(kernels))
    assert before["silu_and_mul"] == "triton.activation"
    assert kernels.fallen_back == ["silu_and_mul"]
    assert after == {**before, "silu_and_mul": "reference.activation"}
