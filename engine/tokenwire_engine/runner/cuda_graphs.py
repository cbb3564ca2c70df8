"""CUDA graphs that share one memory pool.

What a graph allocates while it is captured is free again for the next one: only one of them runs at a time,
and nothing that one leaves in the pool is read by another.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch

from tokenwire_engine.runner.graphs import NotCapturableError
from tokenwire_kernels import Kernels


class CudaGraphs:
    """Captures work on one device. See `graphs.Capture`."""

    def __init__(self, device: torch.device, kernels: Kernels) -> None:
        self._device = device
        self._kernels = kernels
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], None]) -> Callable[[], object]:
        """Do the work once, so that its kernels are compiled and libraries are ready, and capture it.

        Raises:
            NotCapturableError: a kernel did not compile, and what computes instead waits for the device; or
                the driver refuses.
            torch.OutOfMemoryError: there is no room for what the work allocates.
        """
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            work()
            if missing := self._kernels.fallen_back:
                raise NotCapturableError(f"the reference computes {', '.join(missing)}")
            torch.cuda.synchronize(self._device)
            graph = self._captured(work)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return graph.replay

    def _captured(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        # Not `torch.cuda.graph`, which collects garbage and empties the allocator's cache every time.
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            work()
            graph.capture_end()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            with suppress(RuntimeError):  # which can only say again that the capture failed
                graph.capture_end()
            raise NotCapturableError(str(error).splitlines()[0]) from error
        return graph
