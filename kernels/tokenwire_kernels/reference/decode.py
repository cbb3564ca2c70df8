"""A step of decodes whose inputs never leave the device: what was sampled last is computed next.

All tensors are written in place, so that a captured graph finds its inputs where they always are. A row
without a slot fills a batch up to a graph's size: it computes token 0 in a context of one token, is stored
nowhere, and what is sampled for it is nobody's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwire_kernels.batch import DecodeRows


def advance_decodes(rows: DecodeRows, latest_tokens: Tensor) -> None:
    """Move every row on to the token that was sampled last for its slot, and count the step.

    Args:
        rows: `slots` is read, `positions` and `step` go up by one, the others are written.
        latest_tokens: int64 [num_slots].
    """
    has_slot = rows.slots >= 0
    rows.positions.add_(1).mul_(has_slot)
    rows.token_ids.copy_(latest_tokens[rows.slots.clamp(min=0)] * has_slot)
    torch.add(rows.positions, 1, out=rows.next_positions)
    rows.context_lens.copy_(rows.next_positions)
    rows.step.add_(1)


def gather_block_tables(
    rows: DecodeRows, tables: Tensor, row_tables: Tensor, cache_slots: Tensor, block_size: int
) -> None:
    """Each row's block table, and where its token's key and value go.

    Args:
        tables: int32 [num_slots, max_blocks]: physical blocks of each slot, in token order.
        row_tables: int32 [num_rows, max_blocks]: written as far as the row's context reaches.
        cache_slots: int64 [num_rows]: written: block * block_size + offset; -1 where a row has no slot.
    """
    has_slot = rows.slots >= 0
    chosen = tables[rows.slots.clamp(min=0)]
    used = torch.arange(tables.shape[1], device=tables.device) * block_size < rows.context_lens[:, None]
    row_tables.copy_(torch.where(used, chosen * has_slot[:, None], row_tables))
    blocks = chosen.gather(1, (rows.positions // block_size)[:, None])[:, 0].long()
    cache_slots.copy_(torch.where(has_slot, blocks * block_size + rows.positions % block_size, -1))


def record_tokens(tokens: Tensor, rows: DecodeRows, latest_tokens: Tensor, history: Tensor) -> None:
    """Keep what a step sampled: for the next step by slot, and for the host by row.

    Args:
        tokens: int64 [num_rows].
        latest_tokens: int64 [num_slots]: written where a row has a slot.
        history: int64 [length, at least num_rows]: row `step` % length is written.
    """
    has_slot = rows.slots >= 0
    latest_tokens[rows.slots[has_slot]] = tokens[has_slot]
    history[rows.step % len(history), : len(tokens)] = tokens
