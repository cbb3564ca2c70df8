"""The gated feed-forward block (SwiGLU, Shazeer 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tokenwire_engine.distributed.shard import Shard
from tokenwire_engine.layers.linear import RowParallelLinear, load_column_parallel, load_row_parallel
from tokenwire_engine.layers.matmul import Linear
from tokenwire_engine.models.architecture import Architecture
from tokenwire_engine.weights.reader import WeightReader
from tokenwire_kernels import Kernels


@dataclass(slots=True, frozen=True)
class MLP:
    """down(silu(gate(x)) * up(x)), with gate and up as one product."""

    gate_up: Linear
    down: RowParallelLinear
    kernels: Kernels

    def __call__(self, x: Tensor) -> Tensor:
        """`[num_tokens, hidden_size]` to the same."""
        return self.down(self.kernels.silu_and_mul(self.gate_up(x)))


def load_mlp(
    reader: WeightReader, shard: Shard, architecture: Architecture, layer: int, kernels: Kernels
) -> MLP:
    names = architecture.names
    prefix = names.layer.format(layer)
    hidden_size, intermediate_size = architecture.hidden_size, architecture.intermediate_size
    return MLP(
        gate_up=load_column_parallel(
            reader,
            shard,
            [prefix + names.gate, prefix + names.up],
            [intermediate_size, intermediate_size],
            hidden_size,
            bias=architecture.mlp_bias,
        ),
        down=load_row_parallel(
            reader, shard, prefix + names.down, hidden_size, intermediate_size, bias=architecture.mlp_bias
        ),
        kernels=kernels,
    )
