"""Which kernels serve which device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.kernels.native import native_instruction_sets
from tokenwire_kernels import NativeError, describe_kernels, registry, select_kernels
from tokenwire_kernels.cpu import load_library
from tokenwire_kernels.cuda import module

CPU = torch.device("cpu")
compiled = pytest.mark.skipif(not native_instruction_sets(), reason="the native kernels were not compiled")


@compiled
def test_a_cpu_is_served_by_native_kernels_with_the_best_that_it_has() -> None:
    kernels = select_kernels(CPU)
    table = dict(describe_kernels(kernels))
    assert table["paged_attention"] == "cpu.operators"
    assert set(table.values()) == {
        "cpu.operators",
        "reference.blocks",
        "reference.decode",
        "reference.logprobs",
        "reference.norm_quantize",
        "reference.penalties",
    }
    assert kernels.native is not None
    assert kernels.native.instruction_set == native_instruction_sets()[-1]


@compiled
@pytest.mark.parametrize("instruction_set", native_instruction_sets())
def test_an_instruction_set_can_be_asked_for(instruction_set: str) -> None:
    kernels = select_kernels(CPU, instruction_set)
    assert kernels.native is not None
    assert kernels.native.instruction_set == instruction_set


@compiled
def test_an_instruction_set_that_is_not_there_is_refused() -> None:
    with pytest.raises(NativeError, match="there are no kernels for altivec on this CPU; it has portable"):
        select_kernels(CPU, "altivec")


def test_a_cpu_can_be_served_by_torch_alone() -> None:
    table = dict(describe_kernels(select_kernels(CPU, "torch")))
    assert table["paged_attention"] == "reference.attention"
    assert all(implementation.startswith("reference.") for implementation in table.values())


def test_without_compiled_kernels_torch_computes_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    nowhere = tmp_path / "nowhere.so"
    monkeypatch.setattr("tokenwire_kernels.cpu.library.load_library", lambda: load_library(nowhere))
    kernels = select_kernels(CPU)
    assert kernels.native is None
    assert caplog.messages == [
        "the native CPU kernels were not compiled when Tokenwire was installed: "
        "torch computes instead, which is slower"
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_served_by_triton_and_by_what_is_faster_on_it() -> None:
    table = dict(describe_kernels(select_kernels(torch.device("cuda"))))
    is_hopper = torch.cuda.get_device_capability() == (9, 0)
    assert table.pop("linear") == ("cuda.linear" if module.is_available() else "triton.linear")
    assert table.pop("paged_attention") == ("triton.hopper_attention" if is_hopper else "triton.attention")
    assert all(implementation.startswith("triton.") for implementation in table.values())


@pytest.mark.parametrize("missing", [ImportError, AttributeError])
def test_without_gluon_the_kernel_for_every_gpu_attends(
    monkeypatch: pytest.MonkeyPatch, missing: type[Exception]
) -> None:
    """On a Hopper GPU, as far as the choice can see."""

    def import_module(name: str) -> None:
        raise missing(name)

    hopper = torch.device("cuda")
    monkeypatch.setattr(registry, "_runs_triton", lambda device: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert dict(describe_kernels(select_kernels(hopper)))["paged_attention"] == "triton.hopper_attention"
    monkeypatch.setattr(registry, "import_module", import_module)
    assert dict(describe_kernels(select_kernels(hopper)))["paged_attention"] == "triton.attention"


def test_a_cpu_never_loads_triton() -> None:
    script = (
        "import sys, torch\n"
        "from tokenwire_kernels import select_kernels\n"
        "select_kernels(torch.device('cpu'))\n"
        "sys.exit('tokenwire_kernels.triton' in sys.modules or 'triton.language' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@compiled
def test_native_kernels_made_of_other_sources_are_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    load_library.cache_clear()
    monkeypatch.setattr("tokenwire_kernels.cpu.library.digest", lambda: "another")
    with pytest.raises(NativeError, match="compiled from other sources"):
        load_library()
    load_library.cache_clear()
