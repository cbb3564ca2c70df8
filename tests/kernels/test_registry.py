from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tokenwire_kernels import describe_kernels, select_kernels


def test_a_cpu_is_served_by_the_reference() -> None:
    table = dict(describe_kernels(select_kernels(torch.device("cpu"))))
    assert table["paged_attention"] == "reference.attention"
    assert all(implementation.startswith("reference.") for implementation in table.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_served_by_triton() -> None:
    table = dict(describe_kernels(select_kernels(torch.device("cuda"))))
    assert all(implementation.startswith("triton.") for implementation in table.values())


def test_a_cpu_never_loads_triton() -> None:
    script = (
        "import sys, torch\n"
        "from tokenwire_kernels import select_kernels\n"
        "select_kernels(torch.device('cpu'))\n"
        "sys.exit('tokenwire_kernels.triton' in sys.modules or 'triton.language' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
