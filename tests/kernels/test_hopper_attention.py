"""Attention of chunks by warps of different tasks: on a Hopper GPU, or else emulated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.attention_cases import Case, make_case
from tests.kernels.gluon_emulation import Launcher
from tests.kernels.tables import Heads, assert_close
from tokenwire_kernels import AttentionBatch, LayerCache, triton
from tokenwire_kernels.triton import attention, hopper_attention

CHUNKS = [(7, 7), (35, 190), (2, 128), (70, 300)]
FAR = 123_456_789
"""A block that no cache has, nor any that it becomes where its slots overflow 32 bits."""


@pytest.fixture(params=["native", "emulated"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the kernel is run."""
    if request.param == "native" and not _is_hopper():
        pytest.skip("needs a GPU of compute capability 9.0")
    if request.param == "emulated":
        if torch.cuda.is_available():
            pytest.skip("inputs are on the GPU")
        monkeypatch.setattr(hopper_attention, "_hopper_kernel", Launcher(hopper_attention, "_hopper_kernel"))
    return str(request.param)


def _is_hopper() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)


def _attended(case: Case, batch: AttentionBatch, q: Tensor, scale: float) -> Tensor:
    """What is written, with NaN where nothing is."""
    assert hopper_attention.serves(q, case.cache, 0, 0.0, None)
    out = torch.full_like(q, float("nan"))
    hopper_attention.hopper_attention(q, case.cache, batch, out, scale)
    return out


def _bury(case: Case, block_size: int) -> None:
    """Have the tables name no block behind the contexts."""
    for table, context in zip(case.batch.block_tables, case.batch.context_lens.tolist(), strict=True):
        table[-(-context // block_size) :] = FAR


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("block_size", [16, 32, 48, 128])
@pytest.mark.parametrize(("num_heads", "head_dim"), [(8, 64), (6, 128), (10, 128), (2, 64)])
def test_chunks_agree_with_float64(
    way: str, num_heads: int, head_dim: int, block_size: int, dtype: torch.dtype
) -> None:
    if way == "emulated" and dtype == torch.bfloat16:
        pytest.skip("NumPy has no bfloat16")
    case = make_case(Heads(num_heads, 2, head_dim, block_size), [(1, 31), (1, 5), *CHUNKS], dtype)
    _bury(case, block_size)
    attended = _attended(case, case.batch, case.q, 0.1)
    assert attended[:2].isnan().all()
    assert_close(attended[2:], case.expected(0.1)[2:])


def test_decodes_beside_chunks_are_attended_to_as_well(way: str) -> None:
    case = make_case(Heads(8, 2, 64, 16), [(1, 31), (1, 5), *CHUNKS], torch.float16)
    attended = hopper_attention.paged_attention(case.q, case.cache, case.batch, 0.1)
    assert_close(attended, case.expected(0.1))


def test_a_group_may_take_all_of_a_tiles_rows(way: str) -> None:
    case = make_case(Heads(128, 1, 64, 16), [(3, 140)], torch.float16)
    assert_close(_attended(case, case.batch, case.q, 0.1), case.expected(0.1))


def test_rows_that_a_tile_has_no_query_for_are_the_next_ones(way: str) -> None:
    """42 queries of 3 heads leave two of 128 rows; key 128, which the next query sees, is in another tile."""
    case = make_case(Heads(3, 1, 64, 16), [(90, 176)], torch.float16)
    assert_close(_attended(case, case.batch, case.q, 0.1), case.expected(0.1))


@pytest.mark.parametrize("context", [127, 128, 129, 255, 256, 257, 400])
def test_the_ends_of_contexts_are_seen(way: str, context: int) -> None:
    case = make_case(Heads(4, 1, 128, 16), [(33, context)], torch.float16)
    _bury(case, 16)
    assert_close(_attended(case, case.batch, case.q, 0.1), case.expected(0.1))


@pytest.mark.parametrize("chunks", [[], [(70, 75), (5, 5)]], ids=["none", "two"])
def test_places_without_a_query_change_nothing(way: str, chunks: list[tuple[int, int]]) -> None:
    """As captured passes have them: decodes and chunks without a query, and tokens of no sequence."""
    case = make_case(Heads(6, 2, 64, 16), [(1, 40), (1, 90), *chunks], torch.float16)
    batch, starts = case.batch, case.batch.query_starts.tolist()
    padded = AttentionBatch(
        block_tables=_filled_up(batch.block_tables, FAR),
        query_starts=torch.tensor(starts[:2] + [2] * 5 + starts[2:-1] + [starts[-1]] * 4, dtype=torch.int32),
        context_lens=_filled_up(batch.context_lens, 0),
        max_query_len=batch.max_query_len,
        max_context_len=batch.max_context_len,
        num_decodes=7,
    )
    q = torch.cat([case.q, torch.full((9, *case.q.shape[1:]), torch.nan, dtype=case.q.dtype)])
    attended = _attended(case, padded, q, 0.2)
    assert attended[:2].isnan().all()
    assert attended[starts[-1] :].isnan().all()
    assert_close(attended[2 : starts[-1]], case.expected(0.2)[2:])


def _filled_up(rows: Tensor, padding: int) -> Tensor:
    """With five rows behind those of two decodes, and three at the end."""
    filling = torch.full_like(rows[:1], padding)
    return torch.cat([rows[:2], *[filling] * 5, rows[2:], *[filling] * 3])


def test_long_prompts_agree_with_the_kernel_whose_warps_all_do_the_same() -> None:
    if not _is_hopper():
        pytest.skip("needs a GPU of compute capability 9.0")
    for heads in (Heads(32, 8, 128, 16), Heads(32, 8, 64, 16)):
        case = make_case(heads, [(1, 31), (700, 1500), (333, 333), (64, 2049)], torch.bfloat16)
        attended = _attended(case, case.batch, case.q, 0.1)[1:]
        expected = triton.paged_attention(case.q, case.cache, case.batch, 0.1)[1:]
        assert_close(attended, expected.double())


def _empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _choice(monkeypatch: pytest.MonkeyPatch, q: Tensor, cache: LayerCache, *options: Any) -> str:
    """Which kernel attends to a chunk."""
    chosen: list[str] = []
    monkeypatch.setattr(attention, "chunk_attention", lambda *_: chosen.append("chunk"))
    monkeypatch.setattr(hopper_attention, "hopper_attention", lambda *_: chosen.append("hopper"))
    table, starts, context = (_empty(*shape, dtype=torch.int32) for shape in ((1, 8), (2,), (1,)))
    batch = AttentionBatch(table, starts, context, 4, 100, 0)
    hopper_attention.paged_attention(q, cache, batch, 0.1, *options)
    (only,) = chosen
    return only


@pytest.mark.parametrize("block_size", [16, 48, 128])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_what_most_models_compute_is_served(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, head_dim: int, block_size: int
) -> None:
    q, keys = _empty(4, 32, head_dim, dtype=dtype), _empty(64, 8, block_size, head_dim, dtype=dtype)
    assert _choice(monkeypatch, q, LayerCache(keys, keys)) == "hopper"


@pytest.mark.parametrize(
    ("q_shape", "cache_shape", "dtypes", "options"),
    [
        pytest.param((4, 8, 80), (64, 8, 16, 80), (torch.bfloat16,) * 2, (), id="heads-of-80"),
        pytest.param((4, 8, 256), (64, 8, 16, 256), (torch.bfloat16,) * 2, (), id="heads-of-256"),
        pytest.param((4, 8, 64), (64, 8, 8, 64), (torch.bfloat16,) * 2, (), id="blocks-of-8"),
        pytest.param((4, 8, 64), (64, 8, 16, 64), (torch.float32,) * 2, (), id="float32"),
        pytest.param((4, 8, 64), (64, 8, 16, 64), (torch.bfloat16, torch.float16), (), id="other-cache"),
        pytest.param((4, 256, 64), (64, 1, 16, 64), (torch.bfloat16,) * 2, (), id="a-group-of-256"),
        pytest.param((4, 8, 64), (2**24, 8, 16, 64), (torch.bfloat16,) * 2, (), id="2**31-slots"),
        pytest.param((4, 8, 64), (64, 8, 16, 64), (torch.bfloat16,) * 2, (100,), id="a-window"),
        pytest.param((4, 8, 64), (64, 8, 16, 64), (torch.bfloat16,) * 2, (0, 30.0), id="a-soft-cap"),
        pytest.param((4, 8, 64), (64, 8, 16, 64), (torch.bfloat16,) * 2, (0, 0.0, _empty(8)), id="sinks"),
    ],
)
def test_all_else_is_not_served(
    monkeypatch: pytest.MonkeyPatch,
    q_shape: tuple[int, ...],
    cache_shape: tuple[int, ...],
    dtypes: tuple[torch.dtype, torch.dtype],
    options: tuple[Any, ...],
) -> None:
    q, keys = _empty(*q_shape, dtype=dtypes[0]), _empty(*cache_shape, dtype=dtypes[1])
    assert _choice(monkeypatch, q, LayerCache(keys, keys), *options) == "chunk"


def test_a_cache_with_scales_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    q, keys = _empty(4, 8, 64), _empty(64, 8, 16, 64)
    scales = _empty(8, dtype=torch.float32)
    assert _choice(monkeypatch, q, LayerCache(keys, keys, scales, scales)) == "chunk"
