"""One child process: started in a session of its own, its output and its progress read line by line.

A child in its own session does not see the terminal's Ctrl-C: only the launcher does, and it alone decides in
which order processes stop. When a child has ended, nothing of its process group is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_CHUNK = 1 << 16


@dataclass(slots=True, frozen=True)
class ProcessSpec:
    """What to run.

    Attributes:
        name: of the process, for people.
        arguments: what follows the Python interpreter on the command line.
        environment: variables set beside the launcher's own; None removes one.
        service: what the process is one of; those of one service stop together. Empty: one by itself.
    """

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str | None] = field(default_factory=dict)
    service: str = ""


@dataclass(slots=True, frozen=True)
class Progress:
    """Where a process is in its start-up.

    Attributes:
        phase: what it does now, such as "loading weights"; "ready" once it serves.
        fraction: how much of the phase is done, from 0 to 1; None: unknown.
    """

    phase: str
    fraction: float | None = None

    @property
    def is_ready(self) -> bool:
        return self.phase == "ready"


class ChildProcess:
    """A running child. Make one with `start`."""

    def __init__(
        self, process: asyncio.subprocess.Process, readers: asyncio.Future[tuple[None, None]]
    ) -> None:
        self._process = process
        self._readers = readers

    @classmethod
    async def start(
        cls,
        spec: ProcessSpec,
        on_line: Callable[[str], None],
        on_progress: Callable[[Progress], None],
    ) -> ChildProcess:
        """Run a spec; the callbacks get each line of its output and each step of its start-up."""
        # The pipes are ours, not asyncio's, for which a process has not ended while a pipe of it is open
        # somewhere: in a process that it started and left behind.
        output, output_end = await _pipe()
        status, status_end = await _pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *spec.arguments,
                f"--status-fd={status_end}",
                f"--parent-pid={os.getpid()}",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output_end,
                stderr=asyncio.subprocess.STDOUT,
                env=_environment(spec.environment),
                pass_fds=(status_end,),
                start_new_session=True,
            )
        finally:
            os.close(output_end)
            os.close(status_end)

        def on_status(line: str) -> None:
            progress = parse_progress(line)
            if progress is not None:
                on_progress(progress)

        return cls(process, asyncio.gather(_read_lines(output, on_line), _read_lines(status, on_status)))

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        """The exit code, negative for a signal, once the process and whatever it started have ended."""
        code = await self._process.wait()
        self._signal_group(signal.SIGKILL)
        await asyncio.shield(self._readers)
        return code

    async def stop(self, grace_s: float, hurry: asyncio.Event) -> None:
        """Ask the process to end; kill it after `grace_s` seconds, or as soon as `hurry` is set."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        ended = asyncio.ensure_future(self.wait())
        hurried = asyncio.ensure_future(hurry.wait())
        await asyncio.wait({ended, hurried}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not ended.done():
            self._signal_group(signal.SIGKILL)
        await ended

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def parse_progress(line: str) -> Progress | None:
    """The progress that a line of a status pipe reports; None when it is not one."""
    try:
        report = json.loads(line)
        phase, fraction = report["phase"], report.get("fraction")
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return Progress(str(phase), float(fraction) if isinstance(fraction, int | float) else None)


def describe_exit(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"was killed by signal {-code}"


def _environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    environment = dict(os.environ)
    for name, value in changes.items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    return environment


async def _pipe() -> tuple[asyncio.StreamReader, int]:
    """A new pipe: its end to read from, and the descriptor of its end to write to."""
    read_end, write_end = os.pipe()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", buffering=0)
    )
    return reader, write_end


async def _read_lines(reader: asyncio.StreamReader, on_line: Callable[[str], None]) -> None:
    """Pass on lines of any length. What a carriage return overwrites, as progress bars do, is dropped."""
    partial = b""
    while chunk := await reader.read(_CHUNK):
        *lines, partial = (partial + chunk).split(b"\n")
        partial = partial[partial.rfind(b"\r", 0, len(partial) - 1) + 1 :]
        for line in lines:
            on_line(_text(line))
    if partial:
        on_line(_text(partial))


def _text(line: bytes) -> str:
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")
