"""Attention over a paged cache, of every backend, in every shape and cache format."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.attention_cases import Case, make_case
from tests.kernels.native import native_instruction_sets, operators_of
from tests.kernels.tables import DTYPES, HEADS, SEQUENCES, Heads, assert_close
from tokenwire_kernels import AttentionBatch, LayerCache, reference, triton

MIXED = [(1, 31), (1, 64), (7, 7), (1, 20), (35, 90)]
SMALL = Heads(6, 2, 64, 16)


@pytest.mark.parametrize("sequences", SEQUENCES)
@pytest.mark.parametrize(("window", "soft_cap"), [(0, 0.0), (10, 0.0), (0, 3.0), (10, 3.0)])
def test_attention_is_what_a_loop_over_tokens_and_heads_gives(
    kernels: ModuleType, sequences: list[tuple[int, int]], window: int, soft_cap: float
) -> None:
    case = make_case(SMALL, sequences, torch.float32, window)
    attended = kernels.paged_attention(case.q, case.cache, case.batch, 0.2, window=window, soft_cap=soft_cap)
    assert attended.is_contiguous()
    assert_close(attended, case.expected(0.2, window, soft_cap))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_every_head_shape_and_dtype_agrees_with_float64(
    kernels: ModuleType, heads: Heads, dtype: torch.dtype
) -> None:
    if dtype == torch.bfloat16 and kernels is triton and not torch.cuda.is_available():
        pytest.skip("Triton's interpreter multiplies the bits of bfloat16 matrices as integers")
    case = make_case(heads, [(1, 40), (9, 9), (5, 30)], dtype)
    scale = heads.head_dim**-0.5
    attended = kernels.paged_attention(case.q, case.cache, case.batch, scale)
    assert_close(attended, case.expected(scale))


def test_the_reference_in_float64_is_exact() -> None:
    case = make_case(SMALL, MIXED, torch.float64)
    attended = reference.paged_attention(case.q, case.cache, case.batch, 0.125)
    torch.testing.assert_close(attended, case.expected(0.125), rtol=1e-12, atol=1e-12)


def test_queries_may_be_a_view_of_a_fused_projection(kernels: ModuleType) -> None:
    case = make_case(SMALL, MIXED, torch.float32)
    fused = torch.full((case.q.shape[0], 10, 64), float("nan"))
    fused[:, :6] = case.q
    attended = kernels.paged_attention(fused[:, :6], case.cache, case.batch, 0.125)
    assert attended.is_contiguous()
    assert_close(attended, case.expected(0.125))


@pytest.mark.parametrize("window", [0, 300])
def test_a_long_decode_is_split_along_its_past(kernels: ModuleType, window: int) -> None:
    case = make_case(Heads(4, 2, 64, 64), [(1, 1100), (1, 3)], torch.float32, window)
    attended = kernels.paged_attention(case.q, case.cache, case.batch, 0.125, window=window)
    assert_close(attended, case.expected(0.125, window))


@pytest.mark.parametrize("instruction_set", native_instruction_sets())
@pytest.mark.parametrize("cached", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("head_dim", [64, 80, 96])
@pytest.mark.parametrize("window", [0, 70])
def test_a_token_gets_the_same_numbers_alone_and_in_any_piece_of_its_prompt(
    instruction_set: str, cached: torch.dtype, head_dim: int, window: int
) -> None:
    if torch.cuda.is_available():
        pytest.skip("inputs are on the GPU")
    operators = operators_of(instruction_set)
    case = make_case(Heads(6, 2, head_dim, 16), [(330, 330)], torch.float32)
    cache = LayerCache(case.cache.keys.to(cached), case.cache.values.to(cached))

    def attended(first: int, stop: int) -> Tensor:
        batch = replace(
            case.batch,
            query_starts=torch.tensor([0, stop - first], dtype=torch.int32),
            context_lens=torch.tensor([stop], dtype=torch.int32),
            max_query_len=stop - first,
            max_context_len=stop,
            num_decodes=int(stop - first == 1),
        )
        return operators.paged_attention(case.q[first:stop], cache, batch, 0.125, window=window)

    together = attended(0, 330)
    pieces = [0, 1, 2, 33, 40, 129, 130, 257, 329, 330]
    for first, stop in pairwise(pieces):
        assert torch.equal(attended(first, stop), together[first:stop])


def test_the_last_layers_plan_does_not_leak_into_another_window(kernels: ModuleType) -> None:
    case = make_case(SMALL, MIXED, torch.float32)
    for window in (0, 5, 0, 50):
        attended = kernels.paged_attention(case.q, case.cache, case.batch, 0.125, window=window)
        assert_close(attended, case.expected(0.125, window))


@pytest.mark.parametrize(("window", "soft_cap"), [(0, 0.0), (10, 3.0)])
def test_sinks_take_their_share_of_every_head(kernels: ModuleType, window: int, soft_cap: float) -> None:
    case = make_case(SMALL, MIXED, torch.float32, window)
    sinks = torch.randn(SMALL.num_heads) * 3
    attended = kernels.paged_attention(case.q, case.cache, case.batch, 0.2, window, soft_cap, sinks)
    assert_close(attended, case.expected(0.2, window, soft_cap, sinks))


@pytest.mark.parametrize("kernels", [reference, triton], ids=["reference", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("heads", [SMALL, *HEADS], ids=str)
def test_a_cache_of_fp8_is_read_with_its_heads_scales(
    kernels: ModuleType, heads: Heads, dtype: torch.dtype
) -> None:
    case = make_case(heads, [(1, 31), (1, 64), (7, 7), (5, 30)], dtype)
    _store_fp8(case, heads)
    attended = kernels.paged_attention(case.q, case.cache, case.batch, 0.125)
    assert_close(attended, case.expected(0.125))


@pytest.mark.parametrize("magnitude", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("heads", [SMALL, *HEADS], ids=str)
def test_a_cache_of_fp8_is_read_by_queries_of_bfloat16_of_any_magnitude(
    heads: Heads, magnitude: float
) -> None:
    case = make_case(heads, [(1, 31), (1, 300), (1, 64)], torch.bfloat16)
    _store_fp8(case, heads)
    case.q *= magnitude
    attended = triton.paged_attention(case.q, case.cache, case.batch, 0.125 / magnitude)
    assert_close(attended, case.expected(0.125 / magnitude))


def _store_fp8(case: Case, heads: Heads) -> None:
    """Its keys and values are, in float64, exactly what is stored times the scale."""
    scales = torch.rand(2, heads.num_kv_heads) * 2 + 0.03
    stored = [
        (cache.float() / scale[:, None, None]).clamp(-448, 448).to(torch.float8_e4m3fn)
        for cache, scale in zip((case.cache.keys, case.cache.values), scales, strict=True)
    ]
    case.cache = LayerCache(*stored, *scales)
    for kept, scale in zip((case.keys, case.values), scales.double(), strict=True):
        kept[:] = [
            (x.float() / scale.float()[:, None]).clamp(-448, 448).to(torch.float8_e4m3fn).double()
            * scale[:, None]
            for x in kept
        ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("heads", "window"), [(SMALL, 10), *((heads, 0) for heads in HEADS)], ids=str)
def test_a_cache_of_int8_is_read_with_the_scale_of_each_tokens_head(
    kernels: ModuleType, heads: Heads, dtype: torch.dtype, window: int
) -> None:
    """Its keys and values are, in float64, exactly the codes times the scale."""
    if kernels is triton:
        pytest.skip("a GPU's cache is never int8")
    case = make_case(heads, [(1, 31), (1, 70), (7, 7), (5, 30)], dtype, window)
    case.cache = LayerCache(_as_int8(case.cache.keys), _as_int8(case.cache.values))
    for kept in (case.keys, case.values):
        kept[:] = [_from_int8(_as_int8(x)) for x in kept]
    attended = kernels.paged_attention(case.q, case.cache, case.batch, 0.125, window=window)
    assert_close(attended, case.expected(0.125, window))


def _as_int8(x: Tensor) -> Tensor:
    """Poison stays poison: its scale is NaN."""
    scales = x.float().abs().amax(dim=-1, keepdim=True) / 127
    codes = (x.float() / scales).round().nan_to_num(127.0)
    return torch.cat([codes.to(torch.int8), scales.view(torch.int8)], dim=-1)


def _from_int8(rows: Tensor) -> Tensor:
    scales = rows[..., -4:].contiguous().view(torch.float32)
    return rows[..., :-4].double() * scales.double()


@pytest.mark.parametrize("kernels", [reference, triton], ids=["reference", "triton"])
@pytest.mark.parametrize("cached", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("heads", [SMALL, HEADS[1], HEADS[3]], ids=str)
def test_a_cache_may_have_a_format_of_its_own(
    kernels: ModuleType, heads: Heads, dtype: torch.dtype, cached: torch.dtype
) -> None:
    case = make_case(heads, MIXED, cached)
    case.q = case.q.to(dtype)
    if dtype.itemsize < cached.itemsize:  # what is read is rounded to the queries' format first
        for kept in (case.keys, case.values):
            kept[:] = [x.to(dtype) for x in kept]
    attended = kernels.paged_attention(case.q, case.cache, case.batch, 0.125)
    assert_close(attended, case.expected(0.125))


@pytest.mark.parametrize("block_size", [16, 48, 256])
@pytest.mark.parametrize("head_dim", [64, 80, 128])
def test_the_end_of_a_long_prompt_sees_all_of_it(kernels: ModuleType, head_dim: int, block_size: int) -> None:
    case = make_case(Heads(4, 2, head_dim, block_size), [(1, 300), (40, 420), (9, 300)], torch.float16)
    attended = kernels.paged_attention(case.q, case.cache, case.batch, 0.1)
    assert_close(attended, case.expected(0.1))


def test_a_decode_without_a_context_is_padding_and_its_row_is_zero() -> None:
    case = make_case(SMALL, [(1, 40), (1, 1), (1, 200), (1, 1)], torch.float32)
    case.batch.context_lens[1::2] = 0
    case.batch.block_tables[1::2] = 0  # the poisoned block
    attended = triton.paged_attention(case.q, case.cache, case.batch, 0.2)
    assert attended[1::2].eq(0.0).all()
    assert_close(attended[::2], case.expected(0.2)[::2])


@pytest.mark.parametrize("window", [0, 7])
@pytest.mark.parametrize("num_chunks", [0, 2])
@pytest.mark.parametrize("num_decodes", [0, 3])
def test_sequences_and_tokens_that_fill_a_batch_up_change_nothing(
    kernels: ModuleType, num_decodes: int, num_chunks: int, window: int
) -> None:
    """As captured passes have them: decodes and chunks without a query, and tokens of no sequence."""
    sequences = [(1, 40), (1, 1), (1, 90)][:num_decodes] + [(70, 75), (5, 5)][:num_chunks]
    case = make_case(SMALL, sequences or [(2, 2)], torch.float32, window)
    if not sequences:
        case.batch.query_starts.zero_()
        case.batch.context_lens.zero_()
    batch, num_tokens = case.batch, int(case.batch.query_starts[-1])
    starts = batch.query_starts.tolist()
    padded = AttentionBatch(
        block_tables=_filled_up(batch.block_tables, num_decodes),
        query_starts=torch.tensor(
            starts[:num_decodes] + [num_decodes] * 5 + starts[num_decodes:-1] + [num_tokens] * 4,
            dtype=torch.int32,
        ),
        context_lens=_filled_up(batch.context_lens, num_decodes),
        max_query_len=batch.max_query_len,
        max_context_len=batch.max_context_len,
        num_decodes=num_decodes + 5,
    )
    q = torch.cat([case.q[:num_tokens], torch.full((9, *case.q.shape[1:]), torch.nan)])
    attended = kernels.paged_attention(q, case.cache, padded, 0.2, window=window)[:num_tokens]
    if sequences:
        assert_close(attended, case.expected(0.2, window))


def _filled_up(rows: Tensor, num_decodes: int) -> Tensor:
    """With five rows of zeros behind those of the decodes, and three at the end."""
    zeros = torch.zeros_like(rows[:1])
    return torch.cat([rows[:num_decodes], *[zeros] * 5, rows[num_decodes:], *[zeros] * 3])


@settings(max_examples=15, deadline=None)
@given(
    contexts=st.lists(st.integers(1, 90), min_size=1, max_size=9),
    num_kv_heads=st.integers(1, 3),
    window=st.sampled_from([0, 0, 37]),
)
def test_decodes_are_shared_out_evenly_whatever_their_lengths(
    contexts: list[int], num_kv_heads: int, window: int
) -> None:
    case = make_case(Heads(2 * num_kv_heads, num_kv_heads, 16, 16), [(1, n) for n in contexts], torch.float32)
    attended = triton.paged_attention(case.q, case.cache, case.batch, 0.3, window=window)
    assert_close(attended, case.expected(0.3, window))


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_attention_over_any_batch_is_what_a_loop_gives(data: st.DataObject) -> None:
    decodes = data.draw(st.lists(st.tuples(st.just(1), st.integers(1, 70)), max_size=4))
    chunks = data.draw(
        st.lists(
            st.tuples(st.integers(1, 20), st.integers(0, 40)).map(lambda c: (c[0], c[0] + c[1])), max_size=3
        )
    )
    sequences = decodes + chunks or [(1, 1)]
    window = data.draw(st.integers(0, 80))
    case = make_case(Heads(2, 1, 8, 4), sequences, torch.float32, window)
    attended = reference.paged_attention(case.q, case.cache, case.batch, 0.3, window=window)
    assert_close(attended, case.expected(0.3, window))
