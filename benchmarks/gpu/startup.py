"""A start, phase by phase: from a fresh process to the first token.

The checkpoint's pages are in the page cache, since it was just written. The first start compiles the kernels
unless an earlier one did, the second finds them on disk.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu.checkpoints import CACHE, write_checkpoint
from benchmarks.gpu.findings import Findings
from benchmarks.gpu.section import Context, SkippedError

FIRST_TOKEN = "first token"


def measure(context: Context, findings: Findings) -> None:
    """Two starts of the largest model that there is room for."""
    directory = write_checkpoint(_model(context), context.device)
    size = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    findings.note(f"started from {directory.name}, {size / 1e9:.1f} GB of safetensors in the page cache")
    findings.table("Start", "phase", "first start, s", "second start, s")
    first = _start(directory, context)
    second = _start(directory, context)
    for phase in dict.fromkeys([*first, *second]):
        findings.row(phase, first.get(phase), second.get(phase))
    findings.row("in all", sum(first.values()), sum(second.values()))
    if loading := second.get("loading weights"):
        findings.note(f"weights were loaded at {size / loading / 1e9:.1f} GB/s")


def _model(context: Context) -> str:
    if context.quick:
        return "tiny"
    CACHE.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(CACHE).free
    for name, needed in (("Llama-3.1-8B", 20 << 30), ("Llama-3.2-1B", 4 << 30)):
        if free >= needed or (CACHE / name / "config.json").exists():
            return name
    raise SkippedError(f"{CACHE} has {free >> 30} GiB of free disk; a checkpoint needs 4")


def _start(directory: Path, context: Context) -> dict[str, float]:
    """Seconds of each phase."""
    begin = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.gpu.start", str(directory), str(context.device)]
    done = subprocess.run(
        [*command, str(begin)], check=True, stdout=subprocess.PIPE, text=True, timeout=context.left_s
    )
    phases: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return phases
