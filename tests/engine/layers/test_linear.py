"""Linear layers: packed and plain agree, and shards add up to the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.engine.driver import ignore_progress
from tokenwire_engine.distributed.shard import Shard
from tokenwire_engine.layers.linear import load_column_parallel, load_row_parallel
from tokenwire_engine.layers.matmul import PackedLinear, PlainLinear
from tokenwire_engine.models.errors import ModelError
from tokenwire_engine.weights.checkpoint import stored_tensors
from tokenwire_engine.weights.reader import WeightReader
from tokenwire_kernels import RowNorm, select_kernels

KERNELS = select_kernels(torch.device("cpu"), "torch")


@pytest.fixture
def reader(tmp_path: Path) -> WeightReader:
    torch.manual_seed(0)
    file = tmp_path / "model.safetensors"
    save_file(
        {
            "up.weight": torch.randn(12, 8),
            "up.bias": torch.randn(12),
            "gate.weight": torch.randn(12, 8),
            "gate.bias": torch.randn(12),
            "down.weight": torch.randn(8, 12),
            "down.bias": torch.randn(8),
        },
        file,
    )
    return WeightReader(stored_tensors([file]), torch.device("cpu"), torch.float32, ignore_progress)


@pytest.mark.parametrize("num_rows", [0, 1, 3, 32, 100])
def test_a_packed_matrix_multiplies_as_the_plain_one(num_rows: int) -> None:
    weight, x = torch.randn(40, 24), torch.randn(num_rows, 24)
    for bias in (torch.randn(40), None):
        packed, plain = PackedLinear(weight, bias, KERNELS), PlainLinear(weight, bias, KERNELS)
        torch.testing.assert_close(packed(x), plain(x))


def test_a_packed_matrix_is_surrounded_as_the_plain_one() -> None:
    weight, bias, x = torch.randn(40, 24), torch.randn(40), torch.randn(3, 24)
    packed, plain = PackedLinear(weight, bias, KERNELS), PlainLinear(weight, bias, KERNELS)
    norm, residual = RowNorm(torch.rand(24), 1e-5), torch.randn(3, 20)
    expected = plain(x, norm, is_gated=True, residual=residual.clone())
    torch.testing.assert_close(packed(x, norm, is_gated=True, residual=residual), expected)
    torch.testing.assert_close(residual, expected)


def test_column_shards_hold_their_part_of_every_fused_projection(reader: WeightReader) -> None:
    x = torch.randn(5, 8)

    def outputs(shard: Shard) -> tuple[torch.Tensor, ...]:
        layer = load_column_parallel(reader, shard, ["gate", "up"], [12, 12], 8, bias=True, kernels=KERNELS)
        return layer(x).chunk(2, dim=-1)

    gate, up = outputs(Shard())
    shards = [outputs(Shard(rank, 2)) for rank in range(2)]
    torch.testing.assert_close(torch.cat([shard[0] for shard in shards], dim=-1), gate)
    torch.testing.assert_close(torch.cat([shard[1] for shard in shards], dim=-1), up)


def test_the_partial_sums_of_row_shards_add_up_bias_included(reader: WeightReader) -> None:
    x = torch.randn(5, 12)
    residual = torch.randn(5, 8)
    whole = residual.clone()
    load_row_parallel(reader, Shard(), "down", 8, 12, bias=True, kernels=KERNELS).add(x, whole)
    partial_sums = [
        load_row_parallel(reader, Shard(rank, 3), "down", 8, 12, bias=True, kernels=KERNELS).partial(part)
        for rank, part in enumerate(x.chunk(3, dim=-1))
    ]
    torch.testing.assert_close(residual + torch.stack(partial_sums).sum(dim=0), whole)


def test_what_cannot_be_divided_equally_is_refused() -> None:
    with pytest.raises(ModelError, match="9 attention heads cannot be divided over 2 devices"):
        Shard(0, 2).span(9, "attention heads")
