"""What one forward pass reads: a flat batch of tokens, and where their keys and values are kept.

Tokens of all sequences lie one after the other, without padding; the sequences with exactly one token come
first. Each group of layers keeps keys and values in blocks of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from tokenwire_kernels import AttentionBatch


@dataclass(slots=True)
class ForwardBatch:
    """The tokens of one step, on the device."""

    token_ids: Tensor
    """int32 or int64 `[num_tokens]`."""
    positions: Tensor
    """int64 `[num_tokens]`: each token's place in its sequence."""
    views: Sequence[CacheView]
    """One for each group of layers."""


@dataclass(slots=True)
class CacheView:
    """Where the layers of one group find the batch's keys and values."""

    cache_slots: Tensor
    """int64 `[num_tokens]`: block * block_size + offset where its key and value are written; -1: nowhere."""
    attention: AttentionBatch
