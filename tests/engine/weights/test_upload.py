"""Copies part by part, by several threads; on a CPU with buffers that are not locked."""

from __future__ import annotations

import pytest
import torch

from tokenwire_engine.weights.upload import Uploader

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(0, 8), (1,), (1000,), (37, 24), (5, 3, 7), (2, 4096)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_part_arrives_in_the_targets_dtype(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    source = torch.randn(shape)
    target = torch.full(shape, torch.nan, dtype=dtype)
    uploader = Uploader(CPU, num_lanes=3, part_bytes=1024)
    uploader.copy(target, source)
    uploader.wait()
    assert torch.equal(target, source.to(dtype))


def test_many_tensors_are_under_way_at_once_and_columns_may_be_cut_out() -> None:
    sources = [torch.randn(50, 64)[:, 8 * n : 8 * n + 8] for n in range(8)]
    targets = [torch.empty(50, 8) for _ in sources]
    uploader = Uploader(CPU, num_lanes=2, part_bytes=160)
    for target, source in zip(targets, sources, strict=True):
        uploader.copy(target, source)
    uploader.wait()
    assert all(map(torch.equal, targets, sources))


def test_what_fails_on_a_thread_is_raised_where_one_waits() -> None:
    uploader = Uploader(CPU)
    uploader.copy(torch.empty(4, 2), torch.empty(4, 3))
    with pytest.raises(RuntimeError, match="must match"):
        uploader.wait()
