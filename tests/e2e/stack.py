"""`tokenwire serve` as users run it: a subprocess, on free ports, with the demo model."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import psutil

from tests.patience import PATIENCE_S
from tests.ports import free_ports
from tokenwire.v1 import engine_pb2, engine_pb2_grpc

START_S = 60
STOP_S = 30


@dataclass
class Command:
    """A `tokenwire` command that runs, and what it has written so far."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, text: str, count: int = 1) -> None:
        """Wait until `count` lines hold a text.

        Raises:
            AssertionError: the command ended without it, or took too long.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._count(text) >= count, START_S)
            assert self._count(text) >= count, "\n".join([f"no line with {text!r} in:", *self.lines])

    def stop(self, number: signal.Signals) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(STOP_S)
        self._reader.join(STOP_S)
        return code

    def children(self) -> dict[str, psutil.Process]:
        """Its processes, by the subcommand that each runs."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess, ValueError, IndexError):
                words = child.cmdline()
                found[words[words.index("tokenwire_services.launcher") + 1]] = child
        return found

    def _count(self, text: str) -> int:
        return sum(text in line for line in self.lines)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


@dataclass
class Stack(Command):
    """`tokenwire serve`, and where its processes listen."""

    gateway_port: int = 0
    tokenizer_port: int = 0
    engine_port: int = 0
    tokenizer_metrics_port: int = 0
    engine_metrics_port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}/v1"

    @property
    def tokenizer(self) -> str:
        return f"127.0.0.1:{self.tokenizer_port}"

    def load(self) -> engine_pb2.GetLoadResponse:
        """How busy the engine is."""
        with grpc.insecure_channel(f"127.0.0.1:{self.engine_port}") as channel:
            stub = engine_pb2_grpc.EngineStub(channel)
            return stub.GetLoad(engine_pb2.GetLoadRequest(), timeout=PATIENCE_S, wait_for_ready=True)

    def is_idle(self) -> bool:
        """Whether the engine has no request, and every KV block back."""
        load = self.load()
        busy = load.running_requests + load.waiting_requests
        return busy == 0 and load.free_kv_blocks == load.total_kv_blocks


@contextlib.contextmanager
def running(*arguments: str, key: str | None = None) -> Iterator[Command]:
    """A `tokenwire` command; killed at the end if it still runs."""
    command = Command(_popen(arguments, key))
    try:
        yield command
    finally:
        _kill(command)


@contextlib.contextmanager
def serving(*options: str, key: str | None = None) -> Iterator[Stack]:
    """A stack that is ready; killed at the end if it still runs."""
    ports = free_ports(5)
    names = ("", "tokenizer-", "engine-", "tokenizer-metrics-", "engine-metrics-")
    addresses = [f"--{name}port={port}" for name, port in zip(names, ports, strict=True)]
    # A small cache: the tests look at how full it is, not at how large.
    process = _popen(("serve", *addresses, "--kv-cache-memory=64MiB", *options), key)
    stack = Stack(
        process,
        gateway_port=ports[0],
        tokenizer_port=ports[1],
        engine_port=ports[2],
        tokenizer_metrics_port=ports[3],
        engine_metrics_port=ports[4],
    )
    try:
        stack.wait_for("is ready after")
        yield stack
    finally:
        _kill(stack)


def has_ended(process: psutil.Process) -> bool:
    """Whether a process runs no more (one that nobody has waited for yet has ended, too)."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


def _popen(arguments: tuple[str, ...], key: str | None) -> subprocess.Popen[str]:
    # One thread: on a busy machine, two that compute one small step mostly wait for each other.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("TOKENWIRE_API_KEY", None)
    if key is not None:
        environment["TOKENWIRE_API_KEY"] = key
    return subprocess.Popen(
        [sys.executable, "-m", "tokenwire_services.launcher", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def _kill(command: Command) -> None:
    if command.process.poll() is None:
        command.process.kill()
        command.process.wait()
