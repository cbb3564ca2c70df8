"""The real runner on a CPU, small, and a stand-in for the graphs that only a GPU can capture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.engine.driver import ignore_progress
from tokenwire_engine.config import EngineConfig
from tokenwire_engine.runner.graphs import Capture, Replay
from tokenwire_engine.runner.load import load_runner
from tokenwire_engine.runner.local import LocalRunner


def load_on_cpu(directory: Path, capture: Capture | None = None, **options: Any) -> LocalRunner:
    """A checkpoint's runner, for eight requests in float32 unless fields of `EngineConfig` say otherwise."""
    defaults = {"device": "cpu", "dtype": "float32", "max_running": 8}
    return load_runner(EngineConfig(model=str(directory), **(defaults | options)), ignore_progress, capture)


class Recorder:
    """Stands for the capture of graphs: counts replays, and does the work again at each.

    Attributes:
        fails_at: the replay that does the work and then fails.
    """

    def __init__(self) -> None:
        self.num_captured = 0
        self.num_replays = 0
        self.fails_at: int | None = None

    def __call__(self, work: Callable[[], None]) -> Replay:
        work()  # as capturing does, which must leave nothing behind
        self.num_captured += 1

        def replay() -> None:
            self.num_replays += 1
            work()
            if self.num_replays == self.fails_at:
                raise RuntimeError("an injected failure")

        return replay
