"""The step loop: commands in, plans to the runner, one batch of outputs out per step.

While the device computes step N, the loop delivers the outputs of step N - 1 and plans and launches step
N + 1, so that the device finds its next step waiting; only then it waits for step N. What grammars allow step
N + 1 to sample is known when step N's tokens are: the loop works that out next, while the device computes the
logits that it is for. The core owns the scheduler and the runner, and both are touched by its thread alone.
With nothing to do the thread sleeps in its command queue.

Outputs of a step go out when it is done, or with those of the steps that follow at once (`Pace`): never those
that somebody waits for, and never behind a step that computes a prompt, which may take long.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

from tokenwire_engine.core.commands import (
    Cancel,
    Command,
    HandBack,
    Hold,
    ResetPrefixCache,
    Resume,
    Shutdown,
    Submit,
    WatchPrefixCache,
)
from tokenwire_engine.core.load import Load
from tokenwire_engine.core.meter import Meter
from tokenwire_engine.core.pace import Pace
from tokenwire_engine.kv_cache.changes import Change
from tokenwire_engine.runner.base import DeviceLostError, Runner
from tokenwire_engine.scheduler.outputs import Outputs
from tokenwire_engine.scheduler.plan import StepPlan
from tokenwire_engine.scheduler.scheduler import Scheduler

logger = logging.getLogger(__name__)


class EngineCore:
    """Runs steps until it is told to stop.

    Attributes:
        load: how busy the engine is, as of the latest step; any thread may read it. It is up to date when
            the step's outputs are delivered.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        deliver: Callable[[Outputs], None],
        overlap: bool = True,
        delivery_interval_s: float = 0.0,
    ) -> None:
        """
        Args:
            deliver: called on the core thread, at most once a step; must not block.
            overlap: whether a step is launched before the one before it is done.
            delivery_interval_s: how long tokens may wait for those of the steps that follow at once. They do
                so only where steps overlap.
        """
        self._scheduler = scheduler
        self._runner = runner
        self._deliver = deliver
        self._pace = Pace(delivery_interval_s)
        self._steps_ahead = 1 if overlap else 0
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._launched: deque[_Launched] = deque()
        self._latest_end = 0.0
        """When the step that completed last did."""
        self._deliver_cache_changes: Callable[[list[Change]], object] | None = None
        self._meter = Meter()
        self.load = Load.of(scheduler, self._meter)

    def send(self, command: Command) -> None:
        """Hand over a command; from any thread."""
        self._commands.put(command)

    def run(self) -> None:
        """The loop. Returns after `Shutdown`.

        Raises:
            DeviceLostError: when the runner can never serve again.
        """
        while self._take_commands():
            plan = self._scheduler.plan()
            if plan is not None:
                self._launch(plan)
            self._deliver_outputs()  # what the commands ended need not wait for a step
            ahead = 0 if plan is None else self._steps_ahead
            while len(self._launched) > ahead:
                self._complete()
            self._publish()

    def _take_commands(self) -> bool:
        """Apply the commands that are there, asleep until one comes if there is nothing else to do. False:
        it is time to stop."""
        is_idle = not self._launched and not self._scheduler.has_work
        if is_idle and not self._apply(self._commands.get()):
            return False
        return all(self._apply(self._commands.get()) for _ in range(self._commands.qsize()))

    def _apply(self, command: Command) -> bool:
        match command:
            case Submit(request):
                self._scheduler.submit(request)
            case Cancel(request_ids):
                for request_id in request_ids:
                    self._scheduler.cancel(request_id)
            case HandBack():
                self._scheduler.hand_back()
            case Hold(channel):
                self._scheduler.hold(channel)
            case Resume(channel):
                self._scheduler.resume(channel)
            case ResetPrefixCache(done):
                done(self._scheduler.reset_prefix_cache())
            case WatchPrefixCache(deliver):
                self._scheduler.watch_prefix_cache(deliver is not None)
                self._deliver_cache_changes = deliver
            case Shutdown():
                return False
        return True

    def _launch(self, plan: StepPlan) -> None:
        """Start a step. If that fails, the steps before it are completed, and its requests end."""
        started = time.monotonic()
        try:
            self._runner.launch(plan)
        except DeviceLostError:
            raise
        except Exception as error:
            while self._launched:
                self._complete()
            self._fail(plan, error)
        else:
            self._launched.append(_Launched(plan, started))
            if len(self._launched) == 1:
                self._constrain()

    def _complete(self) -> None:
        """Wait for the oldest step and take in its result. If it failed, the steps behind it are lost."""
        launched = self._launched.popleft()
        try:
            result = self._runner.collect()
        except DeviceLostError:
            raise
        except Exception as error:
            self._launched.clear()
            self._fail(launched.plan, error)
            return
        now = time.monotonic()
        # The device began with it when it was launched, or when the step before it was done.
        seconds = now - max(launched.started, self._latest_end)
        self._latest_end = now
        self._pace.step_done(seconds)
        self._scheduler.complete(result, seconds)
        self._meter.add(seconds, self._scheduler.counters)
        if self._launched:
            self._constrain()

    def _constrain(self) -> None:
        """No step is before the oldest any more: say what it may sample. If that fails, so has the step."""
        plan = self._launched[0].plan
        if not plan.constrained:
            return
        try:
            self._runner.constrain(self._scheduler.masks())
        except DeviceLostError:
            raise
        except Exception as error:
            self._launched.clear()
            self._fail(plan, error)

    def _fail(self, plan: StepPlan, error: Exception) -> None:
        logger.error("step %d failed with %d requests", plan.step, plan.num_rows, exc_info=error)
        self._scheduler.fail(f"a step of the request failed: {type(error).__name__}: {error}")

    def _publish(self) -> None:
        if not self._deliver_outputs():
            self.load = Load.of(self._scheduler, self._meter)
        if self._deliver_cache_changes is not None and (changes := self._scheduler.take_cache_changes()):
            self._deliver_cache_changes(changes)

    def _deliver_outputs(self) -> bool:
        """Deliver what there is, with the load as it is now, unless it may wait; whether anything was."""
        now = time.monotonic()
        if self._scheduler.has_urgent_outputs:
            self._pace.hurry()
        if self._outputs_may_wait(now) or not (outputs := self._scheduler.take_outputs()):
            return False
        self.load = Load.of(self._scheduler, self._meter)
        self._pace.sent(now)
        self._deliver(outputs)
        return True

    def _outputs_may_wait(self, now: float) -> bool:
        """Whether a step is on its way whose outputs they can join soon enough."""
        is_followed = bool(self._launched) and not self._launched[-1].plan.scheduled
        return is_followed and not self._pace.is_due(now)


@dataclass(slots=True, frozen=True)
class _Launched:
    """A step that the device computes."""

    plan: StepPlan
    started: float
    """When it was launched, by the monotonic clock."""
