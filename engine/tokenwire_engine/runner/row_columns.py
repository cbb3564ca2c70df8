"""Columns of numbers that the host writes and a captured graph reads, always at the same addresses.

All columns lie in one buffer, so that writing any of them is one copy. The host has two buffers, used in
turn: the device may still read from one while the next step fills the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenwire_engine.runner.staging import ALIGNMENT, DTYPES


class RowColumns:
    """`num_rows` numbers for each name.

    Attributes:
        on_device: by name, `[num_rows]`.
    """

    def __init__(self, dtypes: Mapping[str, type[np.generic]], num_rows: int, device: torch.device) -> None:
        starts, end = {}, 0
        for name, dtype in dtypes.items():
            starts[name] = end
            size = num_rows * np.dtype(dtype).itemsize
            end += -(-size // ALIGNMENT) * ALIGNMENT
        pinned = device.type == "cuda"
        self._hosts = [torch.zeros(end, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        self._target = torch.zeros(end, dtype=torch.uint8, device=device)
        self._turn = 0
        self._written = [
            {name: _column(host.numpy(), starts[name], num_rows, dtype) for name, dtype in dtypes.items()}
            for host in self._hosts
        ]
        self.on_device: dict[str, Tensor] = {}
        for name, dtype in dtypes.items():
            size = num_rows * np.dtype(dtype).itemsize
            part = self._target[starts[name] : starts[name] + size]
            self.on_device[name] = part.view(DTYPES[np.dtype(dtype)])

    def write(self, columns: Mapping[str, NDArray[Any]], padding: Mapping[str, int]) -> None:
        """Send the first rows of every column, without waiting for the device.

        Args:
            columns: by name, all of one length.
            padding: what the rows behind them get, 0 where a column is not named.
        """
        self._turn = 1 - self._turn
        for name, written in self._written[self._turn].items():
            count = len(columns[name])
            written[:count] = columns[name]
            written[count:] = padding.get(name, 0)
        self._target.copy_(self._hosts[self._turn], non_blocking=True)


def _column(host: NDArray[np.uint8], start: int, num_rows: int, dtype: type[np.generic]) -> NDArray[Any]:
    return host[start : start + num_rows * np.dtype(dtype).itemsize].view(dtype)
