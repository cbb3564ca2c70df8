"""The supervisor with small Python programs as processes."""

import asyncio
import contextlib
import errno
import os
import signal
import tempfile

import psutil
import pytest

from tests.patience import PATIENCE_S
from tokenwire_services.launcher.process import ChildProcess, ProcessSpec
from tokenwire_services.launcher.supervisor import RestartPolicy, StartupError, Supervisor

PREAMBLE = """
import json, os, signal, sys, time
def status(phase, fraction=None):
    line = json.dumps({"phase": phase, "fraction": fraction}) + "\\n"
    os.write(int(sys.argv[-2].partition("=")[2]), line.encode())
"""
SERVE = "status('ready'); print('pid', os.getpid(), flush=True); time.sleep(60)"
STUBBORN = "signal.signal(signal.SIGTERM, lambda *_: print('not yet', flush=True)); " + SERVE


def spec(name: str, program: str = SERVE) -> ProcessSpec:
    return ProcessSpec(name, ("-c", PREAMBLE + program), {"PYTHONUNBUFFERED": "1"})


class Recorder:
    """A reporter that remembers, and lets a test wait for what it needs."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.phases: list[tuple[str, str, float | None]] = []
        self.notices: list[str] = []
        self._changed = asyncio.Event()

    def line(self, process, text):
        self.lines.append((process, text))
        self._changed.set()

    def progress(self, process, progress):
        self.phases.append((process, progress.phase, progress.fraction))
        self._changed.set()

    def notice(self, text):
        self.notices.append(text)
        self._changed.set()

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE_S):
            while not (found := condition()):
                self._changed.clear()
                await self._changed.wait()
        return found

    def pids(self, process: str) -> list[int]:
        return [int(text[4:]) for name, text in self.lines if name == process and text.startswith("pid ")]


@contextlib.asynccontextmanager
async def supervising(*specs, grace_s=10.0, policy=None):
    """Runs a supervisor in the background; stops it at the end, and then nothing may be left."""
    before = psutil.Process().children(recursive=True)
    recorder = Recorder()
    ready = asyncio.Event()

    async def on_ready():
        ready.set()

    supervisor = Supervisor(specs, recorder, on_ready, policy or RestartPolicy(0.01), grace_s)
    running = asyncio.create_task(supervisor.run())
    try:
        yield supervisor, recorder, ready, running
    finally:
        supervisor.stop()
        with contextlib.suppress(StartupError):
            await running
    assert set(psutil.Process().children(recursive=True)) <= set(before)


async def test_all_processes_start_together_and_readiness_is_announced_once_all_are():
    async with supervising(spec("one"), spec("two")) as (_, recorder, ready, _):
        await asyncio.wait_for(ready.wait(), PATIENCE_S)
        assert {("one", "ready", None), ("two", "ready", None)} <= set(recorder.phases)


async def test_progress_and_log_lines_are_passed_on():
    program = (
        "status('loading weights', 0.5); print('12%\\r99%'); print('on stderr', file=sys.stderr); " + SERVE
    )
    async with supervising(spec("one", program)) as (_, recorder, _, _):
        await recorder.until(lambda: recorder.pids("one"))
        assert ("one", "loading weights", 0.5) in recorder.phases
        assert recorder.lines[:2] == [("one", "99%"), ("one", "on stderr")]


async def test_a_line_of_any_length_is_passed_on_whole():
    async with supervising(spec("one", "print('x' * 300_000); " + SERVE)) as (_, recorder, _, _):
        await recorder.until(lambda: recorder.pids("one"))
        assert recorder.lines[0] == ("one", "x" * 300_000)


async def test_a_process_that_ends_before_it_is_ready_stops_everything():
    async with supervising(spec("good"), spec("bad", "sys.exit('no such model')")) as (
        _,
        recorder,
        _,
        running,
    ):
        reason = "the bad exited with code 1 before it was ready: no such model"
        with pytest.raises(StartupError, match=reason):
            await running
        assert ("bad", "no such model") in recorder.lines


async def test_a_process_that_cannot_be_started_stops_everything(monkeypatch):
    start = ChildProcess.start

    async def start_or_fail(started, *callbacks):
        if started.name == "bad":
            raise OSError(errno.EMFILE, "Too many open files")
        return await start(started, *callbacks)

    monkeypatch.setattr(ChildProcess, "start", start_or_fail)
    async with supervising(spec("good"), spec("bad")) as (_, _, _, running):
        with pytest.raises(StartupError, match=r"the bad could not be started .*: Too many open files"):
            await running


async def test_a_process_that_dies_is_restarted_and_the_others_go_on():
    async with supervising(spec("one"), spec("two")) as (_, recorder, ready, _):
        await asyncio.wait_for(ready.wait(), PATIENCE_S)
        (first,) = await recorder.until(lambda: recorder.pids("one"))
        os.kill(first, signal.SIGKILL)
        await recorder.until(lambda: len(recorder.pids("one")) == 2)
        await recorder.until(lambda: len(recorder.notices) == 2)

        died, back = recorder.notices
        assert "the one was killed by signal 9 (SIGKILL); restarting it" in died
        assert "the one is ready again" in back
        assert len(recorder.pids("two")) == 1


async def test_processes_stop_in_reverse_order():
    program = "signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit(0))); " + SERVE
    async with supervising(*(spec(name, program) for name in ("one", "two", "three"))) as (
        supervisor,
        recorder,
        _,
        running,
    ):
        await recorder.until(lambda: all(map(recorder.pids, ("one", "two", "three"))))
        supervisor.stop()
        await running
        assert [name for name, text in recorder.lines if text == "bye"] == ["three", "two", "one"]


async def test_a_process_that_does_not_stop_is_killed_after_its_grace():
    async with supervising(spec("one", STUBBORN), grace_s=0.1) as (supervisor, recorder, _, running):
        await recorder.until(lambda: recorder.pids("one"))
        supervisor.stop()
        await running
        assert recorder.lines[-1] == ("one", "not yet")


async def test_several_processes_that_do_not_stop_share_one_grace(monkeypatch):
    graces = []
    stop = ChildProcess.stop

    async def recording(child, grace_s, hurry):
        graces.append(grace_s)
        await stop(child, grace_s, hurry)

    monkeypatch.setattr(ChildProcess, "stop", recording)
    names = ("one", "two", "three")
    async with supervising(*(spec(name, STUBBORN) for name in names), grace_s=0.9) as (
        supervisor,
        recorder,
        _,
        running,
    ):
        await recorder.until(lambda: all(map(recorder.pids, names)))
        supervisor.stop()
        await running
    # Each was asked later than the one before, to be gone by the same time.
    assert 0.9 >= graces[0] > graces[1] > graces[2]
    assert {name for name, text in recorder.lines if text == "not yet"} == set(names)


async def test_what_a_hanging_process_needs_still_stops_by_itself():
    program = "signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit(0))); " + SERVE
    async with supervising(spec("needed", program), spec("hanging", STUBBORN), grace_s=4) as (
        supervisor,
        recorder,
        _,
        running,
    ):
        await recorder.until(lambda: all(map(recorder.pids, ("needed", "hanging"))))
        supervisor.stop()
        await recorder.until(lambda: ("needed", "bye") in recorder.lines)
        supervisor.stop()
        await running


async def test_the_processes_of_one_service_stop_together():
    meet = """
def leave(*_):
    open(sys.argv[1], "w").close()
    while not os.path.exists(sys.argv[2]): time.sleep(0.01)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
"""
    with tempfile.TemporaryDirectory() as folder:
        first, second = f"{folder}/first", f"{folder}/second"
        specs = [
            ProcessSpec(name, ("-c", PREAMBLE + meet + SERVE, *paths), {"PYTHONUNBUFFERED": "1"}, "service")
            for name, paths in (("one", (first, second)), ("two", (second, first)))
        ]
        async with supervising(*specs, grace_s=1000) as (supervisor, recorder, _, running):
            await recorder.until(lambda: all(map(recorder.pids, ("one", "two"))))
            supervisor.stop()
            await asyncio.wait_for(running, PATIENCE_S)


async def test_asked_twice_to_stop_nothing_is_waited_for():
    async with supervising(spec("one", STUBBORN), grace_s=1000) as (supervisor, recorder, _, running):
        await recorder.until(lambda: recorder.pids("one"))
        supervisor.stop()
        await recorder.until(lambda: ("one", "not yet") in recorder.lines)
        supervisor.stop()
        await running


async def test_what_a_process_started_ends_with_it():
    program = "os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '600'); " + SERVE
    async with supervising(spec("one", program)) as (supervisor, recorder, _, running):
        await recorder.until(lambda: recorder.pids("one"))
        supervisor.stop()
        async with asyncio.timeout(PATIENCE_S):  # the output ends only when nobody holds it any more
            await running


def test_restarts_get_slower_until_a_process_stays_up():
    policy = RestartPolicy(first_delay_s=1, longest_delay_s=5, healthy_after_s=60)
    delays = [None]
    for ran_s in (2, 2, 2, 2, 2, 100):
        delays.append(policy.delay_s(delays[-1], ran_s))
    assert delays == [None, 1, 2, 4, 5, 5, 1]
