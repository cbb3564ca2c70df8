"""How the rows of one plan are computed: operator by operator, or by replaying what was captured.

Both work on the same slots and yield the same tokens; a runner asks them in turn, the eager one last, which
takes everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tokenwire_engine.runner.launched import Launched
from tokenwire_engine.scheduler.plan import ScheduledTokens


class StepExecutor(Protocol):
    """Computes scheduled tokens. The slots know of the plan's admissions and new blocks already."""

    def execute(self, step: int, scheduled: Sequence[ScheduledTokens]) -> Launched | None:
        """Queue the computation of a step's rows; None, and nothing done: they are not for this executor."""
