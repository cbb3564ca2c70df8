"""How far the host runs ahead of a device, on one that is made up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tokenwire_engine.runner.launched import Landing, Launched


def test_a_step_that_yields_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the host would fill the buffers that the device has yet to read."""
    log: list[str] = []

    class Stream:
        def __init__(self, device: object = None, name: str = "copies") -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            log.append(f"{self.name} wait for {other.name}")

    class Event:
        def __init__(self, blocking: bool) -> None:
            pass

        def record(self, stream: Stream) -> None:
            log.append(f"reached by {stream.name}")

        def synchronize(self) -> None:
            log.append("the host waits")

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        yield

    for name, value in {
        "Stream": Stream,
        "Event": Event,
        "stream": on,
        "current_stream": lambda device: Stream(name="main"),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    launched = Landing(torch.device("cuda")).send(Launched(0, []))
    assert launched.result().token_ids == []
    assert log == ["copies wait for main", "reached by copies", "the host waits"]
