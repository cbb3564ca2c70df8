"""Copies of whole KV blocks, all layers of a cache together.

On its way to or from host memory a block is one piece, layer after layer: a row of a staging area.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def copy_blocks(layers: Sequence[Tensor], sources: Tensor, targets: Tensor) -> None:
    """In every layer, block sources[i] is copied to block targets[i].

    Args:
        layers: each [num_blocks, ...], contiguous, all of one shape and dtype.
        sources: int64 [num_copies].
        targets: int64 [num_copies]; no block is both read and written, none written twice.
    """
    for layer in map(_indexable, layers):
        layer.index_copy_(0, targets, layer.index_select(0, sources))


def gather_blocks(layers: Sequence[Tensor], blocks: Tensor, staged: Tensor) -> None:
    """staged[i, j] = layers[j][blocks[i]].

    Args:
        layers: as in `copy_blocks`.
        blocks: int64 [num_copies].
        staged: [num_copies, len(layers), ...], contiguous; written.
    """
    for index, layer in enumerate(map(_indexable, layers)):
        _indexable(staged)[:, index] = layer.index_select(0, blocks)


def scatter_blocks(staged: Tensor, layers: Sequence[Tensor], blocks: Tensor) -> None:
    """layers[j][blocks[i]] = staged[i, j]. As in `gather_blocks`; no block twice."""
    for index, layer in enumerate(map(_indexable, layers)):
        layer.index_copy_(0, blocks, _indexable(staged)[:, index])


def _indexable(tensor: Tensor) -> Tensor:
    """fp8 as bytes: PyTorch indexes no fp8."""
    return tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor
