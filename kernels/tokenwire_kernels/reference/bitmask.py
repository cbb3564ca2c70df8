"""Withholding tokens by bit mask: one bit a token, so that a mask of 128 000 tokens travels as 16 kB."""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = 32


def apply_token_bitmask(logits: Tensor, bitmask: Tensor, rows: Tensor) -> None:
    """logits[rows[i], t] becomes minus infinity where bit t % 32 of bitmask[i, t // 32] is not set.

    Args:
        logits: [num_rows, vocab_size], any float dtype; changed in place.
        bitmask: int32 [num_masked, ceil(vocab_size / 32)].
        rows: int64 [num_masked], which rows of logits; none twice.
    """
    vocab_size = logits.shape[1]
    bits = torch.arange(_BITS, dtype=torch.int32, device=bitmask.device)
    withheld = ((bitmask[:, :, None] >> bits) & 1).flatten(1)[:, :vocab_size] == 0
    logits.index_copy_(0, rows, logits.index_select(0, rows).masked_fill_(withheld, -torch.inf))
