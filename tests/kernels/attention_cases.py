"""Steps for attention to compute, and what it must give."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tests.kernels.oracles import attend_one
from tests.kernels.tables import Heads
from tokenwire_kernels import AttentionBatch, LayerCache


@dataclass(slots=True)
class Case:
    """A step's inputs. Everything in the caches that no query may see is NaN."""

    q: Tensor
    cache: LayerCache
    batch: AttentionBatch
    keys: list[Tensor]
    values: list[Tensor]

    def expected(
        self, scale: float, window: int = 0, soft_cap: float = 0.0, sinks: Tensor | None = None
    ) -> Tensor:
        """What attention is, token by token, in float64."""
        sinks = None if sinks is None else sinks.double()
        starts, rows = self.batch.query_starts.tolist(), []
        for seq in range(len(self.keys)):
            keys, values, q = self.keys[seq].double(), self.values[seq].double(), self.q.double()
            for token in range(starts[seq], starts[seq + 1]):
                position = keys.shape[0] - starts[seq + 1] + token
                rows.append(attend_one(q[token], keys, values, position, scale, window, soft_cap, sinks))
        return torch.stack(rows)


def make_case(heads: Heads, sequences: list[tuple[int, int]], dtype: torch.dtype, window: int = 0) -> Case:
    """Sequences of (query tokens, context), their blocks scattered over a cache whose block 0 is poison."""
    block_size = heads.block_size
    blocks = [-(-context // block_size) for _, context in sequences]
    free = (torch.randperm(sum(blocks)) + 1).tolist()
    caches = torch.full(
        (2, sum(blocks) + 1, heads.num_kv_heads, block_size, heads.head_dim), float("nan")
    ).to(dtype)
    tables = torch.zeros(len(sequences), max(blocks) + 1, dtype=torch.int32)
    keys, values = [], []
    for seq, (queries, context) in enumerate(sequences):
        for kept in (keys, values):
            kept.append(torch.randn(context, heads.num_kv_heads, heads.head_dim).to(dtype))
        oldest = max(0, context - queries + 1 - window) if window else 0
        for block in range(blocks[seq]):
            if (block + 1) * block_size <= oldest:
                continue  # the table's entry stays at the poisoned block
            tables[seq, block] = free.pop()
            for position in range(max(oldest, block * block_size), min(context, (block + 1) * block_size)):
                for cache, kept in zip(caches, (keys, values), strict=True):
                    cache[tables[seq, block], :, position % block_size] = kept[seq][position]
    lengths = torch.tensor([queries for queries, _ in sequences])
    return Case(
        q=torch.randn(int(lengths.sum()), heads.num_heads, heads.head_dim).to(dtype),
        cache=LayerCache(caches[0], caches[1]),
        batch=AttentionBatch(
            block_tables=tables,
            query_starts=torch.tensor([0, *lengths.cumsum(0).tolist()], dtype=torch.int32),
            context_lens=torch.tensor([context for _, context in sequences], dtype=torch.int32),
            max_query_len=int(lengths.max()),
            max_context_len=max(context for _, context in sequences),
            num_decodes=next((i for i, n in enumerate(lengths.tolist()) if n > 1), len(sequences)),
        ),
        keys=keys,
        values=values,
    )
