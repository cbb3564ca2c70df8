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
from benchmarks.gpu.section import Context

MODELS = {"Llama-3.2-1B": (25.0, 4 << 30), "Llama-3.1-8B": (45.0, 20 << 30)}
"""Seconds and bytes of disk that each may need."""


def measure(context: Context, findings: Findings) -> None:
    """Two starts of each model that there is room for."""
    CACHE.mkdir(parents=True, exist_ok=True)
    for name, (needed_s, needed_bytes) in {"tiny": (0.0, 0)}.items() if context.quick else MODELS.items():
        free = shutil.disk_usage(CACHE).free
        if free < needed_bytes and not (CACHE / name / "config.json").exists():
            findings.note(f"{name} was left out: {CACHE} has {free >> 30} GiB of free disk")
        elif context.has_time(needed_s, findings, name):
            _measure_model(context, findings, name)


def _measure_model(context: Context, findings: Findings, name: str) -> None:
    directory = write_checkpoint(name, context.device)
    size = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    findings.table(f"Start of {name}", "start", "phase", "s")
    for number in ("first", "second"):  # each is written down when it is known: the next may be cut short
        phases = _start(directory, context)
        for phase, seconds in phases.items():
            findings.row(number, phase, seconds)
        findings.row(number, "in all", sum(phases.values()))
    rate = size / phases["loading weights"]
    share = context.share("upload", rate)
    findings.note(
        f"{name}: {size / 1e9:.2f} GB of safetensors were loaded at {rate / 1e9:.2f} GB/s"
        + ("" if share is None else f", {share:.0f} % of what the device takes from locked memory")
    )


def _start(directory: Path, context: Context) -> dict[str, float]:
    """Seconds of each phase."""
    begin = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.gpu.start", str(directory), str(context.device)]
    done = subprocess.run(
        [*command, str(begin)], check=True, stdout=subprocess.PIPE, text=True, timeout=context.left_s
    )
    phases: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return phases
