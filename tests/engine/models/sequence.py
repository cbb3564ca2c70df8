"""A forward pass over one sequence, made by hand."""

from __future__ import annotations

import torch

from tokenwire_engine.models.batch import CacheView, ForwardBatch
from tokenwire_engine.runner.memory import CacheGeometry
from tokenwire_kernels import AttentionBatch


def chunk_of_sequence(token_ids: list[int], start: int, geometry: CacheGeometry, length: int) -> ForwardBatch:
    """Tokens at positions from `start` on, of a sequence with room for `length`, whose blocks are in the
    groups of layers by turns."""
    end, num_groups, size = start + len(token_ids), len(geometry.groups), geometry.block_size
    views = []
    for group in range(num_groups):
        blocks = torch.arange(group, geometry.blocks_for(length), num_groups)
        positions = torch.arange(start, end)
        views.append(
            CacheView(
                cache_slots=blocks[positions // size] * size + positions % size,
                attention=AttentionBatch(
                    block_tables=blocks.to(torch.int32)[None],
                    query_starts=torch.tensor([0, end - start], dtype=torch.int32),
                    context_lens=torch.tensor([end], dtype=torch.int32),
                    max_query_len=end - start,
                    max_context_len=end,
                    num_decodes=int(end - start == 1),
                ),
            )
        )
    return ForwardBatch(torch.tensor(token_ids), torch.arange(start, end), views)
