"""Start-up progress for whoever started the process: one JSON object a line on a file descriptor."""

from __future__ import annotations

import json
import os


class StatusPipe:
    """Writes progress to a file descriptor; to None, or to a reader that is gone, it writes nothing."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def __call__(self, phase: str, fraction: float | None = None) -> None:
        self._write({"phase": phase, "fraction": fraction})

    def ready(self, port: int) -> None:
        """The last line: requests are answered on `port`."""
        self._write({"phase": "ready", "fraction": 1.0, "port": port})

    def _write(self, status: dict[str, object]) -> None:
        if self._fd is None:
            return
        try:
            os.write(self._fd, (json.dumps(status) + "\n").encode())
        except OSError:
            self._fd = None
