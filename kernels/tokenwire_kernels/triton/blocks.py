"""Copies of KV blocks in one launch for all layers, whose addresses are a table on the device.

Bytes: each block's once read and once written. A block of Llama 3.1 8B, 16 tokens, is 2 MB over all layers.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from tokenwire_kernels.triton.sizes import ceil_div

_WORDS = 1024
"""Of 8 bytes, that a program copies."""


def copy_blocks(layers: Sequence[Tensor], sources: Tensor, targets: Tensor) -> None:
    """See `reference.blocks.copy_blocks`. A block of a layer is a multiple of 8 bytes."""
    _launch(layers, None, sources, targets)


def gather_blocks(layers: Sequence[Tensor], blocks: Tensor, staged: Tensor) -> None:
    """See `reference.blocks.gather_blocks`."""
    _launch(layers, staged, blocks, None)


def scatter_blocks(staged: Tensor, layers: Sequence[Tensor], blocks: Tensor) -> None:
    """See `reference.blocks.scatter_blocks`."""
    _launch(layers, staged, None, blocks)


def _launch(
    layers: Sequence[Tensor], staged: Tensor | None, sources: Tensor | None, targets: Tensor | None
) -> None:
    """Copy from blocks of the cache, or from what is staged; to blocks of the cache, or there."""
    blocks = sources if sources is not None else targets
    assert blocks is not None
    words = layers[0][0].numel() * layers[0].dtype.itemsize // 8
    _copy_kernel[(len(blocks), len(layers), ceil_div(words, _WORDS))](
        _addresses(tuple(layer.data_ptr() for layer in layers), blocks.device),
        None if staged is None else staged.view(torch.int64), sources, targets, len(layers), words,
        WORDS=_WORDS, num_warps=4,
    )  # fmt: skip


@lru_cache(maxsize=16)
def _addresses(pointers: tuple[int, ...], device: torch.device) -> Tensor:
    """Sent to the device once: caches stay where they are."""
    return torch.tensor(pointers, dtype=torch.int64, device=device)


@triton.jit
def _copy_kernel(addresses_ptr, staged_ptr, sources_ptr, targets_ptr, num_layers, words, WORDS: tl.constexpr):
    """One part of one block of one layer."""
    index, layer = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tl.program_id(2) * WORDS + tl.arange(0, WORDS)
    layer_ptr = tl.load(addresses_ptr + layer).to(tl.pointer_type(tl.int64))
    staged_at = (index * num_layers + layer) * words
    if sources_ptr is not None:
        copied = tl.load(layer_ptr + tl.load(sources_ptr + index) * words + at, mask=at < words)
    else:
        copied = tl.load(staged_ptr + staged_at + at, mask=at < words)
    if targets_ptr is not None:
        tl.store(layer_ptr + tl.load(targets_ptr + index) * words + at, copied, mask=at < words)
    else:
        tl.store(staged_ptr + staged_at + at, copied, mask=at < words)
