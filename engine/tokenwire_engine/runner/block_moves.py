"""Copies of whole KV blocks: within the cache, and between the cache and host memory.

In host memory a block is one piece, all layers of its group after each other. On its way it lies in the same
form in a staging area on the device, so that gathering it from the layers is fast and its transfer a single
copy. Transfers to the host run on a stream of their own and hold up nothing; who needs a block back waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from tokenwire_engine.kv_cache.host_tier import HostMoves
from tokenwire_kernels import Kernels, LayerCache


class BlockMover:
    """Moves blocks of one cache."""

    def __init__(self, caches: Sequence[LayerCache], num_host_blocks: int, kernels: Kernels) -> None:
        """
        Args:
            caches: one for each layer; those of different groups may share their tensors.
            num_host_blocks: blocks of host memory to allocate; where that is not a device's own memory
                anyway, it is locked.
        """
        self._kernels = kernels
        unique = {id(cache.keys): cache for cache in caches}.values()
        self._layers = [tensor for cache in unique for tensor in (cache.keys, cache.values)]
        self._device = self._layers[0].device
        self._shape = (len(self._layers), *self._layers[0].shape[1:])
        is_cuda = self._device.type == "cuda"
        self._host = torch.empty(
            (num_host_blocks, *self._shape),
            dtype=self._layers[0].dtype,
            pin_memory=is_cuda and num_host_blocks > 0,
        )
        self._transfers = torch.cuda.Stream(self._device) if is_cuda else None  # type: ignore[no-untyped-call]

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy blocks within the cache, each (from, to); no block is both read and written."""
        if pairs:
            sources, targets = self._indices(pairs)
            self._kernels.copy_blocks(self._layers, sources, targets)

    def move(self, moves: HostMoves) -> None:
        """Copy blocks to the host, and then others back from it."""
        if moves.out:
            self._send(moves.out)
        if moves.back:
            self._fetch(moves.back)

    def _send(self, pairs: Sequence[tuple[int, int]]) -> None:
        sources, _ = self._indices(pairs)
        staged = self._staging(len(pairs))
        self._kernels.gather_blocks(self._layers, sources, staged)
        if self._transfers is not None:
            self._transfers.wait_stream(torch.cuda.current_stream(self._device))
            staged.record_stream(self._transfers)
        with self._transferring():
            for block, (_, target) in zip(staged, pairs, strict=True):
                self._host[target].copy_(block, non_blocking=True)

    def _fetch(self, pairs: Sequence[tuple[int, int]]) -> None:
        _, targets = self._indices(pairs)
        with self._transferring():
            staged = self._staging(len(pairs))
            for block, (source, _) in zip(staged, pairs, strict=True):
                block.copy_(self._host[source], non_blocking=True)
        if self._transfers is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._transfers)
            staged.record_stream(current)
        self._kernels.scatter_blocks(staged, self._layers, targets)

    def _staging(self, num_blocks: int) -> Tensor:
        return torch.empty((num_blocks, *self._shape), dtype=self._host.dtype, device=self._device)

    def _transferring(self) -> torch.cuda.StreamContext | nullcontext[None]:
        return nullcontext() if self._transfers is None else torch.cuda.stream(self._transfers)

    def _indices(self, pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        indices = torch.tensor(pairs, dtype=torch.int64).to(self._device, non_blocking=True)
        sources, targets = indices.unbind(1)
        return sources, targets
