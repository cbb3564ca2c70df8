"""Attention over a paged cache, of every backend, in every shape and cache format."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.oracles import attend_one
from tests.kernels.tables import DTYPES, HEADS, SEQUENCES, Heads, assert_close
from tokenwire_kernels import AttentionBatch, LayerCache, reference, triton
from tokenwire_kernels.triton import chunk_attention
from tokenwire_kernels.triton.target import Gpu, assuming, load_in_bulk

MIXED = [(1, 31), (1, 64), (7, 7), (1, 20), (35, 90)]
SMALL = Heads(6, 2, 64, 16)


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
    """Its keys and values are, in float64, exactly what is stored times the scale."""
    case = make_case(heads, [(1, 31), (1, 64), (7, 7), (5, 30)], dtype)
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
    attended = kernels.paged_attention(case.q, case.cache, case.batch, 0.125)
    assert_close(attended, case.expected(0.125))


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


@pytest.mark.parametrize("soft_cap", [0.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    "heads", [Heads(4, 2, 64, 64), Heads(2, 1, 80, 64), Heads(8, 2, 128, 128), Heads(3, 3, 96, 64)], ids=str
)
def test_chunks_that_load_in_bulk_agree_with_float64(
    monkeypatch: pytest.MonkeyPatch, heads: Heads, dtype: torch.dtype, soft_cap: float
) -> None:
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("bulk loads need compute capability 9.0")
    case = make_case(heads, [(1, 31), (7, 7), (1, 20), (35, 190), (70, 300)], dtype)
    gpu = Gpu(90, 4, loads_in_bulk=True)
    described: list[int] = []
    tiles = chunk_attention._tiles
    monkeypatch.setattr(
        chunk_attention, "_tiles", lambda cache, keys: described.append(keys) or tiles(cache, keys)
    )
    load_in_bulk()
    try:
        with assuming(gpu):
            attended = triton.paged_attention(case.q, case.cache, case.batch, 0.1, soft_cap=soft_cap)
    finally:
        load_in_bulk(False)
    assert_close(attended, case.expected(0.1, soft_cap=soft_cap))
    assert described


def test_a_decode_without_a_context_is_padding_and_its_row_is_zero() -> None:
    case = make_case(SMALL, [(1, 40), (1, 1), (1, 200), (1, 1)], torch.float32)
    case.batch.context_lens[1::2] = 0
    case.batch.block_tables[1::2] = 0  # the poisoned block
    attended = triton.paged_attention(case.q, case.cache, case.batch, 0.2)
    assert attended[1::2].eq(0.0).all()
    assert_close(attended[::2], case.expected(0.2)[::2])


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
