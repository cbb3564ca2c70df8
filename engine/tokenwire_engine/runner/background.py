"""Lets a runner whose launches compute, as on a CPU, work while its caller goes on.

The plans are executed in order by one thread, which sleeps when there is none. Most of a step is spent in
operators that do not hold Python's lock, so the caller can plan and deliver meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue

from tokenwire_engine.runner.base import ModelInfo, Runner
from tokenwire_engine.scheduler.plan import StepPlan, StepResult, TokenMasks


class BackgroundRunner:
    """The `Runner` that another one becomes on a thread of its own."""

    def __init__(self, runner: Runner) -> None:
        """`runner` must not be used by anyone else from now on."""
        self.info: ModelInfo = runner.info
        self._runner = runner
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._results: SimpleQueue[StepResult | Exception | None] = SimpleQueue()
        self._num_failures = 0
        """How many failures were collected."""
        self._thread = threading.Thread(target=self._run, name="runner", daemon=True)
        self._thread.start()

    def warm_up(self) -> None:
        self._give(self._runner.warm_up)
        self._take()

    def pin_thread(self) -> None:
        self._give(self._runner.pin_thread)
        self._take()

    def launch(self, plan: StepPlan) -> None:
        if plan.constrained:
            self._give(partial(self._runner.launch, plan), answers=False)
        else:
            self._give(partial(self._compute, plan))

    def constrain(self, masks: TokenMasks) -> None:
        self._give(partial(self._finish, masks))

    def collect(self) -> StepResult:
        result = self._take()
        assert result is not None
        return result

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()
        self._runner.close()

    def _give(self, work: Callable[[], StepResult | None], answers: bool = True) -> None:
        self._jobs.put(_Job(work, answers, self._num_failures))

    def _take(self) -> StepResult | None:
        result = self._results.get()
        if isinstance(result, Exception):
            self._num_failures += 1
            raise result
        return result

    # On the thread.

    def _run(self) -> None:
        num_failures = 0
        while (job := self._jobs.get()) is not None:
            if job.num_failures < num_failures:  # launched before a failure was collected, and lost with it
                continue
            result: StepResult | Exception | None
            try:
                result = job.work()
            except Exception as error:
                num_failures += 1
                result = error
            if job.answers or isinstance(result, Exception):
                self._results.put(result)

    def _compute(self, plan: StepPlan) -> StepResult:
        self._runner.launch(plan)
        return self._runner.collect()

    def _finish(self, masks: TokenMasks) -> StepResult:
        self._runner.constrain(masks)
        return self._runner.collect()


@dataclass(slots=True, frozen=True)
class _Job:
    """Something to do on the thread."""

    work: Callable[[], StepResult | None]
    answers: bool
    """Whether somebody waits for its result; for a failure, somebody always does."""
    num_failures: int
    """Of how many failures its giver knew."""
