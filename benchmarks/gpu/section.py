"""A section of the report: a name, a time budget, and what measures it in a process of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch

from benchmarks.gpu.findings import Findings


class SkippedError(Exception):
    """The section cannot be measured here; the message says why."""


@dataclass(slots=True)
class Context:
    """What a section is measured with."""

    device: torch.device
    quick: bool
    """Tiny shapes and few repetitions: what is measured then means nothing."""
    budget_s: float
    ceilings: dict[str, float] = field(default_factory=dict)
    """Measured by the first section: "read", "copy" and "upload" (from the host) in bytes/s, "matmul" in
    FLOP/s; empty if it failed."""
    begun: float = field(default_factory=time.monotonic)
    """When its process was started, by the monotonic clock."""

    @property
    def left_s(self) -> float:
        """What is left of the budget."""
        return self.budget_s - (time.monotonic() - self.begun)

    def has_time(self, needed_s: float, findings: Findings, what: str) -> bool:
        """Whether something can still be measured; notes it where not."""
        if self.left_s >= needed_s:
            return True
        findings.note(f"{what} was left out: the section's time was up")
        return False

    def share(self, ceiling: str, rate: float) -> float | None:
        """A rate as a percentage of what was measured at best."""
        best = self.ceilings.get(ceiling)
        return None if best is None else 100 * rate / best
