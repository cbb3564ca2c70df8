"""`make bench-gpu`: one report of a GPU, in one command, without a network.

Each section runs in a process of its own, within a time budget of its own: one that fails, hangs or is
skipped says so in the report, and costs the others nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.gpu import ceilings
from benchmarks.gpu.child import SKIPPED
from benchmarks.gpu.findings import value_in
from benchmarks.gpu.report import draw, page
from benchmarks.report import RESULTS

SECTIONS = {
    "ceilings": 20.0,
    "compilation": 40.0,
    "decode": 80.0,
    "kernels": 70.0,
    "throughput": 50.0,
    "startup": 70.0,
    "serving": 50.0,
    "one_launch": 25.0,
    "early_launch": 15.0,
    "specialized_warps": 10.0,
}
"""Seconds that each may take, in the order in which they run: with their grace less than 8 minutes."""
GRACE_S = 5.0
"""What a section may take beyond its budget before it is killed."""


def main(arguments: list[str] | None = None) -> Path:
    """Measure; the report's path without a suffix."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", help="cuda or cpu; left out: cuda, and without a GPU nothing runs")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to try the benchmark out")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the report")
    options = parser.parse_args(arguments)
    device = options.device or "cuda:0"
    if device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --device cpu --quick tries the benchmark out")

    given = sys.argv[1:] if arguments is None else arguments
    report: dict[str, Any] = {
        "machine": machine.describe() | _card(device),
        "command": " ".join(["python -m benchmarks.gpu", *given]),
        "date": datetime.date.today().isoformat(),
        "quick": options.quick,
        "sections": [],
    }
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    output: Path = options.output / f"{slug}-{report['date']}"
    options.output.mkdir(parents=True, exist_ok=True)
    best: dict[str, float] = {}
    for section in options.sections:
        context = {"device": device, "quick": options.quick, "ceilings": best}
        report["sections"].append(run(section, SECTIONS[section], context))
        if section == "ceilings":
            best = _ceilings(report["sections"][-1]["tables"])
        _write(report, output)  # after every section: what was measured is never lost
    print(output.with_suffix(".md").read_text())
    return output


def run(section: str, budget_s: float, context: dict[str, Any]) -> dict[str, Any]:
    """Measure one section in a child; what it found, and how that ended."""
    print(f"== {section}", flush=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file, errors = Path(folder) / "findings.json", Path(folder) / "stderr"
        given = json.dumps(context | {"budget_s": budget_s, "begun": begin})
        command = [sys.executable, "-m", "benchmarks.gpu.child", section, str(file), given]
        with errors.open("w") as stderr:
            child = subprocess.Popen(command, stderr=stderr, start_new_session=True)
            status, reason = _wait(child, budget_s)
        said = errors.read_text()
        sys.stderr.write(said)
        if status == "failed":
            reason = f"{reason}: {(said.strip().splitlines() or ['no message'])[-1]}"
        found = json.loads(file.read_text()) if file.exists() else {"tables": [], "notes": []}
    seconds = time.monotonic() - begin
    return {"name": section, "status": status, "reason": reason, "seconds": seconds, **found}


def _wait(child: subprocess.Popen[bytes], budget_s: float) -> tuple[str, str]:
    """How the child ended, and why."""
    try:
        code = child.wait(timeout=budget_s + GRACE_S)
    except subprocess.TimeoutExpired:
        _kill(child)
        return "cut", f"still running after its {budget_s:.0f} s"
    if code == SKIPPED:
        return "skipped", ""
    return ("done", "") if code == 0 else ("failed", f"exit status {code}")


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the child with all that it has started."""
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _card(device: str) -> dict[str, str | int]:
    """What else is to be known of the GPU and its software."""
    if not device.startswith("cuda"):
        return {}
    properties = torch.cuda.get_device_properties(device)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = "unknown"
    return {
        "gpu_memory_gib": round(properties.total_memory / 2**30),
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "driver": driver,
        "cuda": torch.version.cuda or "none",
        "triton": version("triton"),
    }


def _ceilings(tables: list[dict[str, Any]]) -> dict[str, float]:
    """What later sections are held against; less where it was not measured."""
    best = {}
    for key, name, unit in (
        ("read", ceilings.READ, 1e9),
        ("copy", ceilings.COPY, 1e9),
        ("upload", ceilings.UPLOAD, 1e9),
        ("matmul", ceilings.MATMUL, 1e12),
    ):
        try:
            best[key] = unit * value_in(tables, ceilings.TITLE, name)
        except KeyError:
            continue
    return best


def _write(report: dict[str, Any], output: Path) -> None:
    output.with_name(output.name + ".json").write_text(json.dumps(report, indent=1) + "\n")
    output.with_name(output.name + ".md").write_text(page(report, draw(report, output)))


if __name__ == "__main__":
    main()
