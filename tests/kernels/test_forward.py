"""A whole decoder as one native call: steps of decoding rows compute what forward passes do, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.kernels.native import context_of, native_instruction_sets
from tokenwire_kernels import AttentionBatch, LayerCache
from tokenwire_kernels.cpu import (
    Context,
    DecoderWeights,
    DecodingRows,
    Format,
    FusedDecoder,
    LayerWeights,
    PackedMatrix,
)
from tokenwire_kernels.cpu.decoder import CacheView

HIDDEN, INTERMEDIATE, VOCAB, HEADS, KV_HEADS, HEAD_DIM = 44, 52, 97, 3, 1, 16
POSITIONS, BLOCK_SIZE, NUM_BLOCKS, MAX_BLOCKS, NUM_SLOTS = 64, 16, 40, 4, 5
WINDOWS = (0, 20)
"""Of the groups of layers; each has one layer."""

pytestmark = pytest.mark.skipif(not native_instruction_sets(), reason="the native kernels were not compiled")


@pytest.fixture(params=native_instruction_sets())
def context(request: pytest.FixtureRequest) -> Context:
    return context_of(request.param)


class View:
    """A `CacheView` of one group."""

    def __init__(self, cache_slots: Tensor, attention: AttentionBatch) -> None:
        self.cache_slots, self.attention = cache_slots, attention


def random_decoder(context: Context, form: Format) -> FusedDecoder:
    def matrix(n: int, k: int, is_paired: bool = False) -> PackedMatrix:
        packed = PackedMatrix(context, n, k, form, is_paired=is_paired)
        packed.pack(0, torch.randn(n, k) / k**0.5)
        return packed.compacted()

    q_size, kv_size = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    layers = [
        LayerWeights(
            attention_norm=torch.rand(HIDDEN) + 0.5,
            mlp_norm=torch.rand(HIDDEN) + 0.5,
            q_norm=torch.rand(HEAD_DIM) + 0.5,
            k_norm=torch.rand(HEAD_DIM) + 0.5,
            qkv=matrix(q_size + 2 * kv_size, HIDDEN),
            o=matrix(HIDDEN, q_size),
            gate_up=matrix(2 * INTERMEDIATE, HIDDEN, is_paired=True),
            down=matrix(HIDDEN, INTERMEDIATE),
            qkv_bias=torch.randn(q_size + 2 * kv_size),
            o_bias=None,
            gate_up_bias=None,
            down_bias=torch.randn(HIDDEN),
            window=window,
            group=group,
        )
        for group, window in enumerate(WINDOWS)
    ]
    angles = torch.rand(POSITIONS, HEAD_DIM // 2) * 6.0
    weights = DecoderWeights(
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        eps=1e-6,
        attention_scale=HEAD_DIM**-0.5,
        soft_cap=0.0,
        embedding=torch.randn(VOCAB, HIDDEN),
        cos=angles.cos(),
        sin=angles.sin(),
        final_norm=torch.rand(HIDDEN) + 0.5,
        lm_head=matrix(VOCAB, HIDDEN),
        layers=layers,
    )
    return FusedDecoder(context, weights)


def poisoned_caches() -> list[LayerCache]:
    shape = (NUM_BLOCKS, KV_HEADS, BLOCK_SIZE, HEAD_DIM)
    return [LayerCache(torch.full(shape, torch.nan), torch.full(shape, torch.nan)) for _ in WINDOWS]


def views_of(tables: Tensor, starts: list[int], lengths: list[int]) -> list[CacheView]:
    """Of rows that compute so many tokens from so many positions on."""
    query_starts = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    context_lens = torch.tensor(starts, dtype=torch.int32) + query_starts.diff()
    views: list[CacheView] = []
    for table in tables:
        slots = [
            int(table[row, position // BLOCK_SIZE]) * BLOCK_SIZE + position % BLOCK_SIZE
            for row, (start, length) in enumerate(zip(starts, lengths, strict=True))
            for position in range(start, start + length)
        ]
        num_decodes = len(lengths) if max(lengths) == 1 else 0
        attention = AttentionBatch(
            table, query_starts, context_lens, max(lengths), int(context_lens.max()), num_decodes
        )
        views.append(View(torch.tensor(slots), attention))
    return views


@pytest.mark.parametrize("form", [Format("float32"), Format("bfloat16")], ids=lambda form: form.name)
@pytest.mark.parametrize("prompts", [[5], [15, 1, 30]], ids=["one row", "three rows"])
def test_decoding_rows_yield_what_forward_passes_do(
    context: Context, form: Format, prompts: list[int]
) -> None:
    decoder, num_rows, num_steps = random_decoder(context, form), len(prompts), 20
    blocks = torch.randperm(NUM_BLOCKS)[: len(WINDOWS) * num_rows * MAX_BLOCKS]
    tables = blocks.reshape(len(WINDOWS), num_rows, MAX_BLOCKS).int()
    token_ids = torch.randint(0, VOCAB, (sum(prompts),))
    positions = torch.cat([torch.arange(length) for length in prompts])
    filled = []
    for _ in range(2):
        caches = poisoned_caches()
        hidden = decoder.forward(token_ids, positions, views_of(tables, [0] * num_rows, prompts), caches)
        filled.append((caches, hidden))
    (expected_caches, hidden), (caches, again) = filled
    assert torch.equal(hidden, again)
    expected = decoder.logits(hidden[torch.tensor(prompts).cumsum(0) - 1]).argmax(-1)

    slots = torch.randperm(NUM_SLOTS)[:num_rows]
    latest = torch.full((NUM_SLOTS,), VOCAB)  # which no row may read
    latest[slots] = expected
    rows = DecodingRows(slots, torch.tensor(prompts) - 7, latest, tables)
    decodes = decoder.prepare(rows, caches)
    for step in range(num_steps):
        starts = [length + step for length in prompts]
        views = views_of(tables, starts, [1] * num_rows)
        logits = decoder.logits(decoder.forward(expected, torch.tensor(starts), views, expected_caches))
        expected = logits.argmax(-1)
        is_greedy, before = step % 3 != 1, latest.clone()
        decodes.run(7 + step, is_greedy=is_greedy)
        assert torch.equal(decodes.logits, logits)
        assert decodes.next_positions.tolist() == [start + 1 for start in starts]
        if not is_greedy:
            assert torch.equal(latest, before)
            latest[slots] = expected
        assert torch.equal(latest[slots], expected)
    assert latest.sum() == expected.sum() + (NUM_SLOTS - num_rows) * VOCAB


def test_a_token_outside_the_vocabulary_is_refused(context: Context) -> None:
    decoder = random_decoder(context, Format("float32"))
    tables = torch.zeros(len(WINDOWS), 1, MAX_BLOCKS, dtype=torch.int32)
    rows = DecodingRows(torch.tensor([0]), torch.tensor([0]), torch.tensor([VOCAB]), tables)
    with pytest.raises(IndexError, match="token id 97 is outside the vocabulary of 97"):
        decoder.prepare(rows, poisoned_caches()).run(0, is_greedy=True)
