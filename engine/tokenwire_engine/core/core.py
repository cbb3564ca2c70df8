"""The step loop: commands in, one plan at a time to the runner, one batch of outputs out per step.

The core owns the scheduler and the runner, and both are touched by its thread alone. With nothing to do
the thread sleeps in its command queue.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
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

    def __init__(self, scheduler: Scheduler, runner: Runner, deliver: Callable[[Outputs], None]) -> None:
        """`deliver` is called on the core thread, once for each step with outputs; it must not block."""
        self._scheduler = scheduler
        self._runner = runner
        self._deliver = deliver
        self._commands: SimpleQueue[Command] = SimpleQueue()
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
            started = time.monotonic()
            plan = self._scheduler.plan()
            if plan is not None:
                self._step(plan)
                self._meter.add(time.monotonic() - started, self._scheduler.counters)
            self._publish()

    def _take_commands(self) -> bool:
        """Apply the commands that are there, asleep until one comes if there is nothing else to do. False:
        it is time to stop."""
        if not self._scheduler.has_work and not self._apply(self._commands.get()):
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

    def _step(self, plan: StepPlan) -> None:
        """Compute one plan. If that fails, its requests end with an error, and the next ones are served."""
        try:
            self._runner.launch(plan)
            self._scheduler.complete(self._runner.collect())
        except DeviceLostError:
            raise
        except Exception as error:
            logger.exception("step %d failed with %d requests", plan.step, len(plan.scheduled))
            self._scheduler.fail(f"a step of the request failed: {type(error).__name__}: {error}")

    def _publish(self) -> None:
        self.load = Load.of(self._scheduler, self._meter)
        if outputs := self._scheduler.take_outputs():
            self._deliver(outputs)
        if self._deliver_cache_changes is not None and (changes := self._scheduler.take_cache_changes()):
            self._deliver_cache_changes(changes)
