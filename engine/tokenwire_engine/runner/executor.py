"""How the rows of one plan are computed: operator by operator, or by replaying what was captured.

Both work on the same slots and yield the same tokens; a runner asks them in turn, the eager one last, which
takes everything.
"""

from __future__ import annotations

from typing import Protocol

from tokenwire_engine.runner.launched import Launched
from tokenwire_engine.scheduler.plan import StepPlan


class StepExecutor(Protocol):
    """Computes a plan's rows. The slots know of the plan's admissions and new blocks already."""

    def execute(self, plan: StepPlan) -> Launched | None:
        """Queue the computation of a plan's rows; None, and nothing done: they are not for this executor."""
