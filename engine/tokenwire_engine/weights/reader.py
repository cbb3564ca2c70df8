"""Parameters, taken from mapped files straight to the device.

Layers ask for what they need by name and expected shape. A parameter that is fused from several tensors is
allocated once and filled piece by piece; one that is stored as it is needed (on a CPU, in the same dtype,
not fused) is the mapped file itself, so that loading it costs nothing and its memory is the page cache's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenwire_engine.models.errors import ModelError
from tokenwire_engine.runner.base import Progress
from tokenwire_engine.weights.checkpoint import StoredTensor
from tokenwire_engine.weights.upload import Uploader

logger = logging.getLogger(__name__)

ALL = slice(None)
CACHE_SCALES = (".k_scale", ".v_scale")
"""Ends of the names of tensors that only a cache of fp8 needs."""


@dataclass(slots=True, frozen=True)
class Piece:
    """A stored tensor, or the span of it that this rank holds."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor."""
    rows: slice | None = None
    """None: all, as for the columns."""
    columns: slice | None = None
    """Only for matrices."""


class WeightReader:
    """Reads parameters to one device in one dtype, and reports how far it has come."""

    def __init__(
        self,
        tensors: dict[str, StoredTensor],
        device: torch.device,
        dtype: torch.dtype,
        progress: Progress,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self._tensors = tensors
        self._unread = set(tensors)
        self._progress = progress
        self._uploader: Uploader | None = None
        self.num_parameters = 0
        """Elements read so far."""

    def read(self, *pieces: Piece) -> Tensor:
        """One parameter: the pieces, concatenated along the first dimension.

        Returns:
            A contiguous tensor on the device, in the reader's dtype. Not to be written to; and, unless the
            device is a CPU, not to be read before `finish`: until then it may still be on its way.

        Raises:
            ModelError: a tensor is missing, has another shape than expected, or is not of a floating dtype.
        """
        stored = self.views(*pieces)
        if len(stored) == 1 and stored[0].device == self.device and stored[0].dtype == self.dtype:
            return stored[0].contiguous()
        num_rows = sum(len(tensor) for tensor in stored)
        parameter = torch.empty((num_rows, *stored[0].shape[1:]), dtype=self.dtype, device=self.device)
        for part, tensor in zip(
            torch.split(parameter, [len(tensor) for tensor in stored]), stored, strict=True
        ):
            self._copy(part, tensor)
        return parameter

    def _copy(self, target: Tensor, source: Tensor) -> None:
        if self.device.type == "cpu":
            target.copy_(source)
            return
        if self._uploader is None:
            self._uploader = Uploader(self.device)
        self._uploader.copy(target, source)

    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """Of a stored tensor; None: there is none of that name."""
        found = self._tensors.get(name)
        return None if found is None else found.shape

    def views(self, *pieces: Piece) -> list[Tensor]:
        """The pieces as they are stored: views of the mapped files, each in its own dtype.

        Raises:
            ModelError: as `read`.
        """
        stored = [self._stored(piece) for piece in pieces]
        self._report()
        return stored

    def finish(self, ignored: Sequence[str] = ()) -> None:
        """Wait until all parameters are there, and warn of tensors that nobody asked for, except those whose
        name ends with one of `ignored`."""
        if self._uploader is not None:
            self._uploader.wait()
            self._uploader = None
        ends = (*ignored, *CACHE_SCALES)
        unread = sorted(name for name in self._unread if not name.endswith(ends))
        if unread:
            more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
            logger.warning("tensors of the checkpoint that are not used: %s%s", unread[0], more)
        self._progress("loading weights", 1.0)

    def _stored(self, piece: Piece) -> Tensor:
        """The piece, as a view of the mapped file."""
        found = self._tensors.get(piece.name)
        if found is None:
            raise ModelError(
                f"the checkpoint lacks the tensor {piece.name} (expected shape {list(piece.shape)})"
            )
        if found.shape != piece.shape:
            raise ModelError(
                f"{piece.name} in {found.file} has the shape {list(found.shape)}; "
                f"expected {list(piece.shape)}"
            )
        span = (piece.rows or ALL, piece.columns or ALL)[: len(piece.shape)]
        if piece.shape:
            tensor: Tensor = found.opened.get_slice(piece.name)[span]
        else:
            tensor = found.opened.get_tensor(piece.name)
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ModelError(
                f"{piece.name} in {found.file} has the dtype {tensor.dtype}; "
                "expected float32, bfloat16 or float16"
            )
        self._unread.discard(piece.name)
        self.num_parameters += tensor.numel()
        return tensor

    def _report(self) -> None:
        self._progress("loading weights", 1 - len(self._unread) / len(self._tensors))
