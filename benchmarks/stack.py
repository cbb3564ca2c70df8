"""Engine, tokenizer service and gateway as processes of their own, and what they have used so far."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import uvloop

from benchmarks.health import wait_until_served
from benchmarks.ports import free_port

CHECKPOINT = Path(__file__).parent.parent / "models" / "demo" / "checkpoint"
COMMAND = [sys.executable, "-m", "tokenwire_services.launcher"]
_START_S = 60.0
_STOP_S = 30.0


@dataclass(slots=True)
class Stack:
    """The three, connected as `tokenwire serve` connects them; without `sockets`, by their ports alone."""

    engine: Sequence[str]
    """What runs the engine, but for the port and the socket."""
    sockets: bool = True
    port: int = field(default_factory=free_port)
    """The gateway's."""
    engine_port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Stack:
        at_engine, to_engine = self._link(self.engine_port)
        at_tokenizer, to_tokenizer = self._link(free_port())
        for name, arguments in {
            "engine": [*self.engine, *at_engine],
            "tokenizer": [*COMMAND, "tokenizer", "--engine", to_engine, *at_tokenizer],
            "gateway": [*COMMAND, "gateway", "--tokenizer", to_tokenizer, "--port", str(self.port)],
        }.items():
            self.processes[name] = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        return self

    def __exit__(self, *error: object) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            process.wait(_STOP_S)

    def wait_until_served(self) -> None:
        """Return once requests are answered."""
        uvloop.run(wait_until_served(self.port, _START_S))

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time that each process has used so far."""
        return {name: cpu_seconds(psutil.Process(each.pid)) for name, each in self.processes.items()}

    def _link(self, port: int) -> tuple[list[str], str]:
        """Where a process listens, as its options, and its address."""
        options, address = ["--port", str(port)], f"127.0.0.1:{port}"
        if not self.sockets:
            return options, address
        socket = f"@tokenwire-benchmark-{port}"
        return [*options, "--session-socket", socket], f"{address},{socket}"


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time that a process has used so far."""
    times = process.cpu_times()
    return float(times.user + times.system)
