"""The real runner on a CPU, small, and a stand-in for the graphs that only a GPU can capture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.engine.driver import ignore_progress
from tokenwire_engine.config import EngineConfig
from tokenwire_engine.runner.graphs import Capture, Replay
from tokenwire_engine.runner.load import load_runner
from tokenwire_engine.runner.local import LocalRunner
from tokenwire_engine.runner.memory import CacheGeometry
from tokenwire_kernels import LayerCache

_POISON = 7.25


def load_on_cpu(directory: Path, capture: Capture | None = None, **options: Any) -> LocalRunner:
    """A checkpoint's runner, for eight requests in float32 unless fields of `EngineConfig` say otherwise."""
    defaults = {"device": "cpu", "dtype": "float32", "max_running": 8}
    return load_runner(EngineConfig(model=str(directory), **(defaults | options)), ignore_progress, capture)


def poisoned_caches(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The keys and the values of every cache that is allocated from now on, which begin as a number that no
    model computes."""
    caches: list[Tensor] = []
    allocate = CacheGeometry.allocate

    def poisoned(*given: Any) -> list[LayerCache]:
        layers = allocate(*given)
        caches.extend(tensor.fill_(_POISON) for layer in layers for tensor in (layer.keys, layer.values))
        return layers

    monkeypatch.setattr(CacheGeometry, "allocate", poisoned)
    return caches


def num_written(cache: Tensor) -> int:
    """In how many slots of a poisoned cache something was stored."""
    return int((cache != _POISON).any(dim=(1, 3)).sum())


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
