"""The one copy from host to device that a step costs.

A step's arrays are put side by side into a pinned buffer, copied together, and viewed as tensors where they
arrive. On a CPU the tensors are the arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ALIGNMENT = 16
"""Bytes, so that kernels may use wide loads on whatever they are given."""

DTYPES = {
    np.dtype(np.int32): torch.int32,
    np.dtype(np.int64): torch.int64,
    np.dtype(np.float32): torch.float32,
}


class Staging:
    """Two host buffers, used in turn: the device may still read one while the next step fills the other."""

    def __init__(self, device: torch.device, capacity: int) -> None:
        """`capacity` is in bytes; the buffers grow when a step needs more."""
        self._device = device
        self._turn = 0
        if device.type != "cpu":
            self._allocate(capacity)

    def send(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        """Copy arrays (int32, int64 or float32) to the device without waiting for it.

        The tensors are valid until the next call; work already queued on the device may still read them.
        """
        if self._device.type == "cpu":
            return {name: torch.from_numpy(array) for name, array in arrays.items()}
        starts, end = {}, 0
        for name, array in arrays.items():
            starts[name] = end
            end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        if end > self._target.numel():
            torch.cuda.synchronize(self._device)  # rare: the old buffers may still be in use
            self._allocate(2 * end)
        self._turn = 1 - self._turn
        buffer = self._buffers[self._turn]
        host = buffer.numpy()
        for name, array in arrays.items():
            host[starts[name] : starts[name] + array.nbytes] = array.reshape(-1).view(np.uint8)
        self._target[:end].copy_(buffer[:end], non_blocking=True)
        return {
            name: self._target[starts[name] : starts[name] + array.nbytes]
            .view(DTYPES[array.dtype])
            .view(array.shape)
            for name, array in arrays.items()
        }

    def _allocate(self, capacity: int) -> None:
        is_cuda = self._device.type == "cuda"
        self._buffers = [torch.empty(capacity, dtype=torch.uint8, pin_memory=is_cuda) for _ in range(2)]
        self._target = torch.empty(capacity, dtype=torch.uint8, device=self._device)
