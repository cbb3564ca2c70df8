"""Peers as worker processes that take one JSON command a line and answer with one JSON line.

Every peer lives in a process group of its own, loaded once and stopped (SIGSTOP) between its commands:
whatever it does when idle, polling or spinning, it cannot do while another is measured.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import psutil

from benchmarks.peers.commands import ANSWERS_FD


class Worker:
    """A peer's process and its children. `ask` runs one command in it and waits for the answer.

    Should this process die, the kernel hangs up the stopped group, which ends it.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        started = time.perf_counter()
        answers, theirs = os.pipe()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=sys.stderr,
            text=True,
            env=os.environ | environment | {ANSWERS_FD: str(theirs)},
            pass_fds=(theirs,),
            process_group=0,
        )
        os.close(theirs)
        self._answers = os.fdopen(answers)
        try:
            self.ready = self._read()
        except BaseException:
            self._signal(signal.SIGTERM)
            raise
        self.start_seconds = time.perf_counter() - started
        """From the process's creation until it took commands."""
        self._signal(signal.SIGSTOP)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send one command, wait for its answer.

        Raises:
            RuntimeError: the process ended instead of answering.
        """
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        self._signal(signal.SIGSTOP)
        return answer

    def cpu_seconds(self) -> float:
        """CPU time that the process and its living children have used so far."""
        total = 0.0
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getpgid(process.pid) == self._process.pid:
                    times = process.cpu_times()
                    total += times.user + times.system
        return total

    def close(self) -> None:
        """End the process; kill its group should that take half a minute."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        self._process.stdin.close()
        self._answers.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def _read(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer
