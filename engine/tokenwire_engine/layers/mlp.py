"""The gated feed-forward block (SwiGLU, Shazeer 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tokenwire_engine.distributed.shard import Shard
from tokenwire_engine.layers.linear import RowParallelLinear, load_column_parallel, load_row_parallel
from tokenwire_engine.layers.matmul import Linear
from tokenwire_engine.layers.norm import load_norm
from tokenwire_engine.models.architecture import Architecture
from tokenwire_engine.weights.reader import WeightReader
from tokenwire_kernels import Kernels, RowNorm


@dataclass(slots=True, frozen=True)
class MLP:
    """down(silu(gate(x)) * up(x)) of the normalized x, with gate and up as one product."""

    norm: RowNorm
    gate_up: Linear
    down: RowParallelLinear

    def __call__(self, residual: Tensor) -> None:
        """Add to the residual stream `[num_tokens, hidden_size]` what it computes from it."""
        self.down.add(self.gate_up(residual, norm=self.norm, is_gated=True), residual)


def load_mlp(
    reader: WeightReader, shard: Shard, architecture: Architecture, layer: int, kernels: Kernels
) -> MLP:
    """One layer's feed-forward block, as far as it is this rank's.

    Raises:
        ModelError: a tensor is missing or has the wrong shape or dtype, or its features cannot be divided.
    """
    names = architecture.names
    prefix = names.layer.format(layer)
    hidden_size, intermediate_size = architecture.hidden_size, architecture.intermediate_size
    return MLP(
        norm=load_norm(reader, prefix + names.mlp_norm, hidden_size, architecture.norm_eps),
        gate_up=load_column_parallel(
            reader,
            shard,
            [prefix + names.gate, prefix + names.up],
            [intermediate_size, intermediate_size],
            hidden_size,
            bias=architecture.mlp_bias,
            kernels=kernels,
        ),
        down=load_row_parallel(
            reader,
            shard,
            prefix + names.down,
            hidden_size,
            intermediate_size,
            bias=architecture.mlp_bias,
            kernels=kernels,
        ),
    )
