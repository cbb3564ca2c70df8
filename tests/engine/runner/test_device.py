"""What of the kernels would compute with an option set, and what is refused."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.native import native_instruction_sets, needs_native
from tokenwire_engine.config import EngineConfig
from tokenwire_engine.models.errors import ModelError
from tokenwire_engine.runner.device import choose_kernels, describe_kernels_for
from tokenwire_kernels import describe_kernels


@pytest.mark.parametrize("instruction_set", native_instruction_sets())
def test_what_would_compute_is_shown(instruction_set: str) -> None:
    lines = describe_kernels_for(EngineConfig(device="cpu", cpu_instruction_set=instruction_set))
    assert lines[0] == "device            cpu"
    assert lines[1].startswith(f"instruction set   {instruction_set} (this CPU and build have portable")
    assert "paged_attention   cpu.operators" in lines


def test_without_native_kernels_torch_is_shown() -> None:
    lines = describe_kernels_for(EngineConfig(device="cpu", cpu_instruction_set="torch"))
    assert "paged_attention   reference.attention" in lines


@needs_native
def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match="--cpu-instruction-set is mmx, but there are no kernels for mmx"):
        describe_kernels_for(EngineConfig(device="cpu", cpu_instruction_set="mmx"))


@pytest.mark.parametrize(
    ("cuda", "capability", "reason"),
    [
        ("13.0", (7, 5), "Tesla T4 has compute capability 7.5, older than 8.0"),
        (None, (9, 4), "Tesla T4 is not an NVIDIA GPU"),
    ],
)
def test_a_gpu_that_the_kernels_do_not_serve_says_so(
    cuda: str | None,
    capability: tuple[int, int],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    kernels = choose_kernels(EngineConfig(), torch.device("cuda", 0))
    assert dict(describe_kernels(kernels))["paged_attention"] == "reference.attention"
    assert caplog.messages == [
        f"{reason}: PyTorch computes instead of the kernels for GPUs, which is much slower"
    ]
