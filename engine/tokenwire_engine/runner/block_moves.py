"""Copies of whole KV blocks, all layers of many blocks at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokenwire_engine.models.batch import LayerCache


def copy_blocks(pairs: Sequence[tuple[int, int]], caches: Sequence[LayerCache]) -> None:
    """Copy blocks within the cache, each (from, to); no block is both read and written."""
    if not pairs:
        return
    device = caches[0].keys.device
    sources, targets = torch.tensor(pairs, dtype=torch.int64).to(device, non_blocking=True).unbind(1)
    for cache in caches:
        for blocks in (cache.keys, cache.values):
            blocks.index_copy_(0, targets, blocks.index_select(0, sources))
