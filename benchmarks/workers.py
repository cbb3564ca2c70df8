"""Peers as worker processes that take one JSON command a line and answer with one JSON line.

Every peer lives in a process of its own, loaded once, asleep between rounds, so that rounds of different
peers can alternate on the same machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any


class Worker:
    """A peer's process. `ask` runs one command in it and waits for the answer."""

    def __init__(self, module: str, *arguments: str, threads: int) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.ready = self._read()

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send one command, wait for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def answer_commands(ready: dict[str, Any], handle: Callable[..., dict[str, Any]]) -> None:
    """The worker's side: announce readiness, then answer commands until standard input closes.

    Whatever else the process prints goes to standard error, so that answers stay alone on their channel.
    """
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    channel.write(json.dumps(ready) + "\n")
    for line in sys.stdin:
        channel.write(json.dumps(handle(**json.loads(line))) + "\n")
