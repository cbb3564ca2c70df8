"""What machine a figure was measured on."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
"""Those that matter here, as Linux names them."""


def describe() -> dict[str, str | int]:
    """Processor, cores, memory and software of this machine."""
    import torch

    cpu_info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.+)", cpu_info)
    memory = re.search(r"MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    return {
        "cpu": model.group(1) if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory.group(1)) / 2**20) if memory else 0,
        "instruction_sets": " ".join(flag for flag in INSTRUCTION_SETS if f" {flag} " in cpu_info),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
