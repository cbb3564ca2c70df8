"""What `serve` shows: the processes' log lines, their start-up, and what the supervisor does.

Every line says where it comes from (`engine    | ...`). On a terminal the names are coloured and start-up is
a block of live progress bars below the log; elsewhere each phase of it is one plain line. That nobody reads,
that the terminal is gone, that the disk is full: nothing of the kind ends the processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as ProgressBars
from rich.text import Text

from tokenwire_services.launcher.process import Progress

LAUNCHER = "tokenwire"
_NEARLY = 0.99
_COLOURS = ("cyan", "magenta", "green", "yellow", "blue")


class PlainReporter:
    """Writes lines to a stream that is no terminal."""

    def __init__(self, stream: TextIO, processes: Sequence[str]) -> None:
        self._stream = stream
        self._width = max(map(len, (LAUNCHER, *processes)))
        self._phases: dict[str, str] = {}

    def line(self, process: str, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(f"{process:<{self._width}} | {text}\n")
            self._stream.flush()

    def progress(self, process: str, progress: Progress) -> None:
        if self._phases.get(process) != progress.phase:
            self._phases[process] = progress.phase
            self.line(process, progress.phase)

    def notice(self, text: str) -> None:
        self.line(LAUNCHER, text)

    def close(self) -> None:
        """Nothing is left to tidy up."""


class TerminalReporter:
    """Writes to a terminal."""

    def __init__(self, console: Console, processes: Sequence[str]) -> None:
        self._console = console
        names = (LAUNCHER, *processes)
        self._width = max(map(len, names))
        self._colours = dict(zip(names, _COLOURS, strict=False))
        self._bars = ProgressBars(
            TextColumn("{task.description}"),
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.fields[phase]}"),
            BarColumn(bar_width=30),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._tasks = {name: self._add_bar(name) for name in processes}
        with contextlib.suppress(OSError):
            self._bars.start()

    def line(self, process: str, text: str) -> None:
        prefix = (f"{process:<{self._width}} | ", self._colours.get(process, ""))
        with contextlib.suppress(OSError):
            self._console.print(Text.assemble(prefix, text), soft_wrap=True)

    def progress(self, process: str, progress: Progress) -> None:
        task = self._tasks.get(process)
        if task is None:
            return
        if progress.is_ready:
            self._bars.update(task, phase=progress.phase, total=1.0, completed=1.0)
        elif progress.fraction is None:
            self._bars.update(task, phase=progress.phase, total=None)
        else:  # a phase's end is not the start-up's, and only a full bar counts as finished
            done = min(progress.fraction, _NEARLY)
            self._bars.update(task, phase=progress.phase, total=1.0, completed=done)
        if self._bars.finished:
            self.close()

    def notice(self, text: str) -> None:
        self.line(LAUNCHER, text)

    def close(self) -> None:
        """Take the progress bars away."""
        with contextlib.suppress(OSError):
            self._bars.stop()
        self._tasks.clear()

    def _add_bar(self, process: str) -> TaskID:
        colour = self._colours.get(process, "")
        description = f"[{colour}]{process:<{self._width}}[/] |"
        return self._bars.add_task(description, total=None, phase="starting")
