"""How many threads compute, and that they sleep when there is nothing to compute.

OpenMP reads its settings when torch is imported, so `configure` must run before that: the process's entry
calls it first. This module imports nothing but the standard library.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

SPIN_COUNT = 200
"""How often an OpenMP thread looks for more work before it sleeps: some 10 µs, where libgomp's own default is
many milliseconds. Longer costs far more than it gains as soon as another process wants the same CPU: a thread
then waits, spinning, for one that cannot run because of it."""


def configure() -> int:
    """Set OpenMP up for this process, unless its environment already does. Returns the number of threads."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    num_threads = int(given) if given.isdigit() and int(given) else available_cpus()
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
    return num_threads


def available_cpus() -> int:
    """CPUs that this process may use: its affinity, and its control group's quota rounded up."""
    allowed = len(os.sched_getaffinity(0))
    quota = _cgroup_quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def shortage(num_threads: int) -> str | None:
    """One line, where the machine has more CPUs than this process computes on; else None."""
    present = os.cpu_count() or num_threads
    if num_threads >= present:
        return None
    return f"computing on {num_threads} of this machine's {present} CPUs, which is what the process may use"


def _cgroup_quota() -> float | None:
    """CPUs' worth of time that the control group (v2, then v1) grants; None where it sets no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        folder = Path("/sys/fs/cgroup/cpu")
        microseconds = int((folder / "cpu.cfs_quota_us").read_text())
        return microseconds / int((folder / "cpu.cfs_period_us").read_text()) if microseconds > 0 else None
    except (OSError, ValueError):
        return None
