from __future__ import annotations

import pytest

from tests.kernels.native import native_instruction_sets
from tokenwire_engine.config import EngineConfig
from tokenwire_engine.models.errors import ModelError
from tokenwire_engine.runner.device import describe_kernels_for


@pytest.mark.parametrize("instruction_set", native_instruction_sets())
def test_what_would_compute_is_shown(instruction_set: str) -> None:
    lines = describe_kernels_for(EngineConfig(device="cpu", cpu_instruction_set=instruction_set))
    assert lines[0] == "device            cpu"
    assert lines[1].startswith(f"instruction set   {instruction_set} (this CPU and build have portable")
    assert "paged_attention   cpu.operators" in lines


def test_without_native_kernels_torch_is_shown() -> None:
    lines = describe_kernels_for(EngineConfig(device="cpu", cpu_instruction_set="torch"))
    assert "paged_attention   reference.attention" in lines


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match="--cpu-instruction-set is mmx, but there are no kernels for mmx"):
        describe_kernels_for(EngineConfig(device="cpu", cpu_instruction_set="mmx"))
