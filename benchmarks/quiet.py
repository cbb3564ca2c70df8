"""Measuring while nobody else uses the machine, or at least knowing that somebody did.

Threads that meet at barriers wait for the slowest, so a process beside them costs a measured one far more
than the CPU time it takes. What a sample is kept for never depends on how fast it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

import psutil

T = TypeVar("T")
QUIET = 0.04
"""Share of the CPUs that other processes may take."""


def quietly(sample: Callable[[], T], cpu_seconds: Callable[[], float], patience_s: float) -> tuple[T, float]:
    """Take a sample when the machine is quiet, and again if it was disturbed.

    Args:
        cpu_seconds: CPU time that what is measured has used so far.
        patience_s: longest to wait, and to go on taking samples, for a quiet one.

    Returns:
        The least disturbed sample, and the share of the CPUs that other processes took during it.
    """
    until = time.perf_counter() + patience_s
    taken: list[tuple[T, float]] = []
    while not taken or (taken[-1][1] > QUIET and time.perf_counter() < until):
        while time.perf_counter() < until and psutil.cpu_percent(interval=0.3) > 100 * QUIET:
            pass
        begin, busy, own = time.perf_counter(), _busy_seconds(), cpu_seconds()
        result = sample()
        others = (_busy_seconds() - busy) - (cpu_seconds() - own)
        available = (time.perf_counter() - begin) * (os.cpu_count() or 1)
        taken.append((result, max(0.0, others / available)))
    return min(taken, key=lambda pair: pair[1])


def _busy_seconds() -> float:
    """CPU seconds that all processes have used since the machine started."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)
