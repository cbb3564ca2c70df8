"""Weights from mapped files to a device, as fast as the bus takes them.

A device reads only locked host memory at full speed, and mapped pages are not: so several threads copy parts
of tensors into locked buffers, converting them on the way where the dtype differs, and hand each to a stream
of their own. While one buffer of a thread is on its way, it fills the other.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

import torch
from torch import Tensor

NUM_LANES = 4
PART_BYTES = 32 << 20
"""Of a tensor, what is copied at a time."""


class Uploader:
    """Copies tensors to one device, many at a time. What was queued is complete after `wait`."""

    def __init__(
        self, device: torch.device, num_lanes: int = NUM_LANES, part_bytes: int = PART_BYTES
    ) -> None:
        self._part_bytes = part_bytes
        self._lanes: SimpleQueue[_Lane] = SimpleQueue()
        for _ in range(num_lanes):
            self._lanes.put(_Lane(device, part_bytes))
        self._threads = ThreadPoolExecutor(num_lanes, thread_name_prefix="upload")
        self._parts: list[Future[None]] = []

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Queue the copy of a host tensor to a contiguous one of the same shape on the device."""
        row_bytes = target[0].nbytes if len(target) else 0
        if row_bytes > self._part_bytes:
            for row, its_source in zip(target, source, strict=True):
                self.copy(row, its_source)
            return
        rows = max(1, self._part_bytes // max(1, row_bytes))
        for begin in range(0, len(target), rows):
            part = slice(begin, begin + rows)
            self._parts.append(self._threads.submit(self._send, target[part], source[part]))

    def wait(self) -> None:
        """Return once everything has arrived, or raise what kept it from it. Ends the threads."""
        self._threads.shutdown(wait=True)
        for part in self._parts:
            part.result()
        self._parts.clear()
        while not self._lanes.empty():
            self._lanes.get().close()

    def _send(self, target: Tensor, source: Tensor) -> None:
        lane = self._lanes.get()  # there are as many as threads
        try:
            lane.send(target, source)
        finally:
            self._lanes.put(lane)


class _Lane:
    """Two locked buffers and a stream. Used by one thread at a time. For a CPU, neither is special."""

    def __init__(self, device: torch.device, part_bytes: int) -> None:
        is_cuda = device.type == "cuda"
        self._buffers = [torch.empty(part_bytes, dtype=torch.uint8, pin_memory=is_cuda) for _ in range(2)]
        self._stream = torch.cuda.Stream(device) if is_cuda else None  # type: ignore[no-untyped-call]
        self._sent = [torch.cuda.Event(blocking=True) for _ in range(2)] if is_cuda else []  # type: ignore[no-untyped-call]
        self._turn = 0

    def send(self, target: Tensor, source: Tensor) -> None:
        """Copy a part. Returns when the source has been read."""
        self._turn = 1 - self._turn
        staged = self._buffers[self._turn][: target.nbytes].view(target.dtype).view(target.shape)
        if self._stream is None:
            target.copy_(staged.copy_(source))
            return
        self._sent[self._turn].synchronize()
        staged.copy_(source)
        with torch.cuda.stream(self._stream):
            target.copy_(staged, non_blocking=True)
            self._sent[self._turn].record(self._stream)

    def close(self) -> None:
        """Wait for what is on its way."""
        if self._stream is not None:
            self._stream.synchronize()
