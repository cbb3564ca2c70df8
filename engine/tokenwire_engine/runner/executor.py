"""How the rows of one plan are computed: operator by operator, or by replaying what was captured.

Both work on the same slots and yield the same tokens; a runner asks them in turn, the eager one last, which
takes everything. A step has two halves, since what grammars allow may come to be known only while the device
is busy with the first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tokenwire_engine.runner.launched import Launched
from tokenwire_engine.scheduler.plan import StepPlan, TokenMasks

Sampling = Callable[[TokenMasks | None], Launched]
"""The second half of a step: queues what becomes of its logits, within the masks where the plan has
constrained tokens. Called once, before the next plan."""


class StepExecutor(Protocol):
    """Computes a plan's rows. The slots know of the plan's admissions and new blocks already."""

    def forward(self, plan: StepPlan) -> Sampling | None:
        """Queue the computation of the logits of a plan's rows, and return what samples from them. None, and
        nothing done: they are not for this executor."""
