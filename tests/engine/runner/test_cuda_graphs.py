"""In which order work is captured, and what becomes of it where it cannot be: on a driver that is made up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from tokenwire_engine.runner.cuda_graphs import CudaGraphs
from tokenwire_engine.runner.graphs import NotCapturableError
from tokenwire_kernels import Kernels, select_kernels
from tokenwire_kernels.fallback import Fallback


@dataclass
class FakeCuda:
    """Notes what is asked of the driver."""

    log: list[str] = field(default_factory=list)
    is_capturing: bool = False

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cuda = self

        class Stream:
            def __init__(self, device: object = None, name: str = "side") -> None:
                self.name = name

            def wait_stream(self, other: Stream) -> None:
                cuda.log.append(f"{self.name} waits for {other.name}")

        class Graph:
            def capture_begin(self, pool: object, capture_error_mode: str) -> None:
                cuda.is_capturing = True
                cuda.log.append(f"capture into {pool}")

            def capture_end(self) -> None:
                if not cuda.is_capturing:
                    raise RuntimeError("nothing is captured")
                cuda.is_capturing = False
                cuda.log.append("captured")

            def replay(self) -> None:
                cuda.log.append("replay")

        @contextmanager
        def on(stream: Stream) -> Iterator[None]:
            yield

        for name, value in {
            "Stream": Stream,
            "CUDAGraph": Graph,
            "stream": on,
            "graph_pool_handle": lambda: "the pool",
            "current_stream": lambda device: Stream(name="main"),
            "synchronize": lambda device: cuda.log.append("synchronize"),
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    fake.install(monkeypatch)
    return fake


def graphs(kernels: Kernels | None = None) -> CudaGraphs:
    cpu = torch.device("cpu")
    return CudaGraphs(cpu, kernels or select_kernels(cpu, "torch"))


def test_work_is_done_once_before_it_is_captured_on_a_stream_of_its_own(cuda: FakeCuda) -> None:
    replay = graphs()(lambda: cuda.log.append("work"))
    replay()
    assert cuda.log == [
        "side waits for main", "work", "synchronize", "capture into the pool", "work", "captured",
        "main waits for side", "replay",
    ]  # fmt: skip


def test_what_the_driver_refuses_cannot_be_captured(cuda: FakeCuda) -> None:
    def work() -> None:
        if cuda.is_capturing:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")

    with pytest.raises(NotCapturableError, match=r"operation not permitted when stream is capturing$"):
        graphs()(work)
    assert not cuda.is_capturing


def test_a_lack_of_memory_is_not_taken_for_that(cuda: FakeCuda) -> None:
    def work() -> None:
        if cuda.is_capturing:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        graphs()(work)


def test_what_waits_for_the_device_is_not_captured(cuda: FakeCuda) -> None:
    """A kernel that does not compile is replaced by the reference when it is first called."""

    def broken(*given: Any) -> None:
        raise RuntimeError("PassManager::run failed")

    kernels = select_kernels(torch.device("cpu"), "torch")
    kernels = replace(kernels, greedy=Fallback("greedy", broken, kernels.greedy))
    with pytest.raises(NotCapturableError, match="the reference computes greedy"):
        graphs(kernels)(lambda: kernels.greedy(torch.randn(2, 8)))
    assert "captured" not in cuda.log
