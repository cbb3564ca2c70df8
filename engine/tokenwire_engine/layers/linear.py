"""Matrix products with weights that are divided over ranks.

A column-parallel layer holds some of the output's columns and needs nothing from the other ranks; a
row-parallel one holds the matching rows of its input and yields a partial sum, which is added up over the
ranks. So an attention or an MLP, which is one of each, costs one exchange.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed
from torch import Tensor

from tokenwire_engine.distributed.shard import Shard
from tokenwire_engine.layers.matmul import Linear, make_linear
from tokenwire_engine.weights.reader import Piece, WeightReader
from tokenwire_kernels import Kernels


class RowParallelLinear:
    """A linear layer whose input is divided over the ranks and whose output every rank has in full."""

    __slots__ = ("partial", "shard")

    def __init__(self, partial: Linear, shard: Shard) -> None:
        self.partial = partial
        self.shard = shard

    def add(self, x: Tensor, residual: Tensor) -> None:
        """Add y `[num_tokens, out_features]` of x `[num_tokens, in_features / size]` to the residual."""
        if self.shard.size == 1:
            self.partial(x, residual=residual)
            return
        y = self.partial(x)
        torch.distributed.all_reduce(y)
        residual.add_(y)


def load_column_parallel(
    reader: WeightReader,
    shard: Shard,
    names: Sequence[str],
    out_features: Sequence[int],
    in_features: int,
    bias: bool,
    kernels: Kernels,
) -> Linear:
    """Several projections of the same input as one layer: its output is theirs, side by side.

    Args:
        names: of each projection, without ".weight".
        out_features: of each projection, over all ranks.
    """
    spans = [shard.span(total, f"outputs of {name}") for name, total in zip(names, out_features, strict=True)]
    weights = [
        Piece(f"{name}.weight", (total, in_features), rows=span)
        for name, total, span in zip(names, out_features, spans, strict=True)
    ]
    biases = [
        Piece(f"{name}.bias", (total,), rows=span)
        for name, total, span in zip(names, out_features, spans, strict=True)
    ]
    return make_linear(reader.read(*weights), reader.read(*biases) if bias else None, kernels)


def load_row_parallel(
    reader: WeightReader,
    shard: Shard,
    name: str,
    out_features: int,
    in_features: int,
    bias: bool,
    kernels: Kernels,
) -> RowParallelLinear:
    """A projection of a divided input. The bias belongs to rank 0, so that the sum has it once."""
    columns = shard.span(in_features, f"inputs of {name}")
    weight = reader.read(Piece(f"{name}.weight", (out_features, in_features), columns=columns))
    has_bias = bias and shard.rank == 0
    added = reader.read(Piece(f"{name}.bias", (out_features,))) if has_bias else None
    return RowParallelLinear(make_linear(weight, added, kernels), shard)
