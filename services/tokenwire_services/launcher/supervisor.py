"""Keeps processes running: starts them together, restarts the one that dies, stops them in order.

A process that ends before it was ever ready would end so again: it stops everything. One that dies later is
restarted, at first at once and then ever more slowly, while the others go on. When `run` returns, none of
them is left, and that takes no longer for several that hang than for one.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tokenwire_services.launcher.process import ChildProcess, ProcessSpec, Progress, describe_exit


class Reporter(Protocol):
    """Where the supervisor tells what happens."""

    def line(self, process: str, text: str) -> None:
        """A process wrote a line."""

    def progress(self, process: str, progress: Progress) -> None:
        """A process got on with its start-up."""

    def notice(self, text: str) -> None:
        """The supervisor itself has something to say."""

    def close(self) -> None:
        """Nothing more happens."""


@dataclass(slots=True, frozen=True)
class RestartPolicy:
    """How long to wait before a restart, in seconds."""

    first_delay_s: float = 0.25
    longest_delay_s: float = 30.0
    healthy_after_s: float = 60.0
    """A process that ran this long starts over with the first delay."""

    def delay_s(self, previous_s: float | None, ran_s: float) -> float:
        """The delay after a run of `ran_s` seconds that itself came after `previous_s` (None: no restart)."""
        if previous_s is None or ran_s >= self.healthy_after_s:
            return self.first_delay_s
        return min(previous_s * 2, self.longest_delay_s)


class StartupError(Exception):
    """A process could not be started, or ended before it was ever ready."""


async def supervise(
    command: str,
    specs: Sequence[ProcessSpec],
    reporter: Reporter,
    on_ready: Callable[[], Awaitable[None]],
) -> int:
    """Run the processes of a command until Ctrl-C, SIGTERM or SIGHUP; its exit code. 1 when one of them did
    not come up, which the last line on standard error says."""
    supervisor = Supervisor(specs, reporter, on_ready)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, supervisor.stop)
    problem = ""
    try:
        await supervisor.run()
    except StartupError as error:
        problem = str(error)
    finally:
        reporter.close()
    if problem:
        print(f"tokenwire {command}: {problem}", file=sys.stderr)
    return 1 if problem else 0


class Supervisor:
    """Runs processes, listed in the order in which each needs the one before it."""

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        reporter: Reporter,
        on_ready: Callable[[], Awaitable[None]],
        policy: RestartPolicy | None = None,
        grace_s: float = 10.0,
    ) -> None:
        """`on_ready` runs once, when all processes are ready; all together have `grace_s` seconds to stop."""
        self._specs = specs
        self._reporter = reporter
        self._on_ready = on_ready
        self._policy = policy or RestartPolicy()
        self._grace_s = grace_s
        self._running: dict[str, ChildProcess] = {}
        self._was_ready = {spec.name: asyncio.Event() for spec in specs}
        self._last_words = {spec.name: "" for spec in specs}
        """The line that each process wrote last."""
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    def stop(self) -> None:
        """Stop all processes; asked a second time, do not wait for them."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self) -> None:
        """Run until `stop` is called.

        Raises:
            StartupError: a process could not be started, or ended before it was ever ready; all others were
                stopped.
        """
        endless = [asyncio.create_task(self._keep_running(spec)) for spec in self._specs]
        announcement = asyncio.create_task(self._announce())
        stopping = asyncio.create_task(self._stop.wait())
        tasks = [*endless, announcement, stopping]
        try:
            await asyncio.wait([*endless, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            await self._stop_all()
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _stop_all(self) -> None:
        """Stop one service after the other, those first that need others; kill what is left at the end of the
        grace. One that hangs is not waited for longer than leaves the others an equal share of it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._grace_s
        services = itertools.groupby(reversed(self._specs), key=lambda spec: spec.service or spec.name)
        children = [[spec.name for spec in specs if spec.name in self._running] for _, specs in services]
        stopping: list[asyncio.Task[None]] = []
        for index, names in enumerate(children):
            left_s = max(deadline - loop.time(), 0.0)
            ending = [asyncio.create_task(self._running[name].stop(left_s, self._hurry)) for name in names]
            if ending:
                await asyncio.wait(ending, timeout=left_s / (len(children) - index))
            stopping += ending
        await asyncio.gather(*stopping)

    async def _announce(self) -> None:
        for ready in self._was_ready.values():
            await ready.wait()
        await self._on_ready()

    async def _keep_running(self, spec: ProcessSpec) -> None:
        was_ready = self._was_ready[spec.name]
        delay_s: float | None = None
        while True:
            started = time.monotonic()
            try:
                end = describe_exit(await self._run_once(spec, restarted=delay_s is not None))
                words = self._last_words[spec.name]
            except OSError as error:  # no more processes, files or memory for this user
                end, words = "could not be started", error.strerror or str(error)
            if not was_ready.is_set():
                reason = f": {words}" if words else ""
                raise StartupError(f"the {spec.name} {end} before it was ready{reason}")
            delay_s = self._policy.delay_s(delay_s, time.monotonic() - started)
            self._reporter.notice(f"the {spec.name} {end}; restarting it in {delay_s:g} s")
            await asyncio.sleep(delay_s)

    async def _run_once(self, spec: ProcessSpec, restarted: bool) -> int:
        started = time.monotonic()

        def on_progress(progress: Progress) -> None:
            self._reporter.progress(spec.name, progress)
            if progress.is_ready:
                self._was_ready[spec.name].set()
                if restarted:
                    self._reporter.notice(
                        f"the {spec.name} is ready again after {time.monotonic() - started:.1f} s"
                    )

        def on_line(text: str) -> None:
            self._reporter.line(spec.name, text)
            self._last_words[spec.name] = text.strip() or self._last_words[spec.name]

        process = await ChildProcess.start(spec, on_line, on_progress)
        self._running[spec.name] = process
        code = await process.wait()
        del self._running[spec.name]
        return code
