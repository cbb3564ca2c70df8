"""How long it takes to compile what steps launch, for all models at the same time: afterwards it is on disk.

Triton compiles a kernel when it is first called, one after the other; later sections should measure, and not
wait for that.
"""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.gpu.decode import MODELS
from benchmarks.gpu.findings import Findings
from benchmarks.gpu.section import Context


def measure(context: Context, findings: Findings) -> None:
    """A process for each model; with an empty cache of Triton's, their times are those of a first start."""
    findings.table("Compilation", "model", "s, beside the others")
    command = [sys.executable, "-m", "benchmarks.gpu.compile_step"]
    names = ("tiny",) if context.quick else MODELS
    begin = time.monotonic()
    running = {name: subprocess.Popen([*command, name, str(context.device)]) for name in names}
    while running and context.left_s > 1.0:
        time.sleep(0.1)
        for name, process in list(running.items()):
            if (code := process.poll()) is not None:
                del running[name]
                if code == 0:
                    findings.row(name, time.monotonic() - begin)
                else:
                    findings.note(f"{name}: the process ended with code {code}")
    for name, process in running.items():
        process.kill()
        findings.note(f"{name} was still compiling; what was compiled is kept")
