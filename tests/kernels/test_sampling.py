"""Choosing tokens: greedily, and by draws under every filter."""

from __future__ import annotations

import itertools
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import TypicalLogitsWarper

from tests.kernels.oracles import kept_tokens, typical_tokens, weights_of
from tests.kernels.tables import DTYPES
from tokenwire_kernels import SamplingBatch, reference, triton
from tokenwire_kernels.reference.random import exponentials, row_keys

NAN, INF = float("nan"), float("inf")


def batch_of(
    num_rows: int,
    temperature: float | list[float] = 1.0,
    top_k: int | list[int] = 0,
    top_p: float | list[float] = 1.0,
    min_p: float | list[float] = 0.0,
    typical_p: float | list[float] | None = None,
    seeds: Tensor | None = None,
) -> SamplingBatch:
    def column(value: float | list[float], dtype: torch.dtype) -> Tensor:
        return torch.tensor(value if isinstance(value, list) else [value] * num_rows, dtype=dtype)

    return SamplingBatch(
        temperatures=column(temperature, torch.float32),
        top_k=column(top_k, torch.int32),
        top_p=column(top_p, torch.float32),
        min_p=column(min_p, torch.float32),
        seeds=torch.arange(num_rows) if seeds is None else seeds,
        sample_indices=torch.zeros(num_rows, dtype=torch.int32),
        positions=torch.full((num_rows,), 11),
        typical_p=None if typical_p is None else column(typical_p, torch.float32),
    )


def assert_drawn_by_race(logits: Tensor, batch: SamplingBatch, tokens: Tensor) -> None:
    """Each token is the one, of those that the filters keep, that comes first at the rate of its weight.

    Where float32 and the oracle may round apart, at the edges, either will do.
    """
    keys = row_keys(batch.seeds, batch.sample_indices, batch.positions)
    numbers = exponentials(keys, logits.shape[1]).double().tolist()
    for row, token in enumerate(tokens.tolist()):
        top_p, min_p, values = float(batch.top_p[row]), float(batch.min_p[row]), logits[row].tolist()
        typical_p = 1.0 if batch.typical_p is None else float(batch.typical_p[row])
        edges = itertools.product(
            (top_p, top_p * (1 - 1e-5), min(top_p * (1 + 1e-5), 1.0)) if top_p < 1 else (1.0,),
            (min_p, min_p * (1 + 1e-5)),
            (typical_p, typical_p * (1 - 1e-5), typical_p * (1 + 1e-5)) if typical_p < 1 else (1.0,),
        )
        first_filters = float(batch.temperatures[row]), int(batch.top_k[row])
        assert any(_wins(token, values, numbers[row], *first_filters, *edge) for edge in edges), (
            f"row {row}: token {token} is not what its numbers and filters call for"
        )


def _wins(
    token: int,
    logits: list[float],
    numbers: list[float],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    typical_p: float,
) -> bool:
    """Whether the filters keep a token, and its weight for its number is the largest, or all but."""
    kept = kept_tokens(logits, temperature, top_k, top_p, min_p)
    kept = typical_tokens(logits, temperature, kept, typical_p)
    weights = weights_of(logits, temperature, kept)
    ratios = [weight / number for weight, number in zip(weights, numbers, strict=True)]
    return token in kept and ratios[token] >= max(ratios) * (1 - 1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab_size", [1, 77, 5000])
def test_greedy_takes_the_largest_logit(kernels: ModuleType, dtype: torch.dtype, vocab_size: int) -> None:
    logits = torch.randn(3, vocab_size).to(dtype)
    assert torch.equal(kernels.greedy(logits), logits.double().argmax(dim=-1))


def test_greedy_takes_the_lowest_id_among_equals(kernels: ModuleType) -> None:
    logits = torch.zeros(3, 9000)
    logits[0, [4500, 8999]] = 1.0
    logits[1, [3, 4]] = 1.0
    assert kernels.greedy(logits).tolist() == [4500, 3, 0]


def test_greedy_never_takes_nan(kernels: ModuleType) -> None:
    logits = torch.tensor([[NAN, 1.0, 2.0], [NAN, NAN, NAN], [-INF, -INF, -INF], [INF, NAN, 0.0]])
    assert kernels.greedy(logits).tolist() == [2, 0, 0, 0]


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"temperature": 0.3},
        {"top_k": 5},
        {"top_k": 700},
        {"top_p": 0.6},
        {"top_p": 0.999},
        {"min_p": 0.2},
        {"temperature": 1.7, "top_k": 40, "top_p": 0.8, "min_p": 0.05},
        {"typical_p": 0.2},
        {"typical_p": 0.9},
        {"temperature": 1.3, "top_k": 60, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("vocab_size", [50, 2500])
def test_a_draw_is_a_race_among_the_tokens_that_the_filters_keep(
    kernels: ModuleType, filters: dict[str, float], vocab_size: int
) -> None:
    logits, batch = 2 * torch.randn(6, vocab_size), batch_of(6, **filters)
    assert_drawn_by_race(logits, batch, kernels.sample(logits, batch))


@pytest.mark.parametrize("filters", [{"top_p": 0.6}, {"top_k": 1100}, {"top_k": 1100, "top_p": 0.3}], ids=str)
def test_filters_keep_their_share_of_an_almost_flat_distribution(
    kernels: ModuleType, filters: dict[str, float]
) -> None:
    logits, batch = 0.01 * torch.randn(2, 2500), batch_of(2, **filters)
    assert_drawn_by_race(logits, batch, kernels.sample(logits, batch))


def test_a_threshold_is_found_wherever_it_lies(kernels: ModuleType) -> None:
    """Far below the largest logit, between two levels of it, and where most logits are equal."""
    logits = torch.randn(4, 3000)
    logits[0] *= 12
    logits[1, 5] = 30.0
    logits[2] = logits[2].round()
    logits[3, 100:] = -INF
    batch = batch_of(4, top_k=[900, 200, 40, 150], top_p=[1.0, 1.0, 0.5, 0.99])
    assert_drawn_by_race(logits, batch, kernels.sample(logits, batch))


@pytest.mark.parametrize("filters", [{"top_k": 1}, {"top_k": 4}, {"top_k": 7, "top_p": 0.7}], ids=str)
def test_top_k_is_found_in_a_long_row_wherever_its_tokens_are(
    kernels: ModuleType, filters: dict[str, float]
) -> None:
    """All over it, close together, and among equals."""
    logits = torch.randn(4, 12_500)
    logits[1, 3000:4000] += 12
    logits[2, 6000:7000] = logits[2, 6000:7000] / 100 + 12
    logits[3] = logits[3].round()
    batch = batch_of(4, **filters, min_p=[0.0, 0.0, 0.0, 0.1])
    assert_drawn_by_race(logits, batch, kernels.sample(logits, batch))


def test_rows_of_one_batch_keep_their_own_parameters(kernels: ModuleType) -> None:
    logits = 2 * torch.randn(5, 600)
    batch = batch_of(
        5, temperature=[0.0, 1.0, 0.7, 1.3, 1.0], top_k=[0, 3, 0, 1, 0], top_p=[1.0, 1.0, 0.4, 1.0, 1.0]
    )
    tokens = kernels.sample(logits, batch)
    assert tokens[0] == logits[0].argmax()
    assert tokens[3] == logits[3].argmax()
    batch.temperatures[0] = 1e-9
    assert_drawn_by_race(logits[1:], _rows(batch, [1, 2, 3, 4]), tokens[1:])


def _rows(batch: SamplingBatch, rows: list[int]) -> SamplingBatch:
    return SamplingBatch(
        batch.temperatures[rows], batch.top_k[rows], batch.top_p[rows], batch.min_p[rows],
        batch.seeds[rows], batch.sample_indices[rows], batch.positions[rows],
        None if batch.typical_p is None else batch.typical_p[rows],
    )  # fmt: skip


def test_a_token_does_not_depend_on_the_batch_around_it(kernels: ModuleType) -> None:
    logits = torch.randn(6, 1500)
    batch = batch_of(
        6, top_p=[1.0, 0.5, 1.0, 0.9, 0.3, 1.0], top_k=[0, 0, 9, 50, 0, 0], typical_p=[1.0, 0.4, 0.8] * 2
    )
    together = kernels.sample(logits, batch)
    order = [4, 0, 5, 2]
    assert kernels.sample(logits[order], _rows(batch, order)).tolist() == together[order].tolist()
    for row in range(6):
        assert kernels.sample(logits[row : row + 1], _rows(batch, [row])).item() == together[row]


def test_promises_change_nothing_but_the_work(kernels: ModuleType) -> None:
    logits, batch = torch.randn(4, 1500), batch_of(4)
    tokens = kernels.sample(logits, batch)
    batch.all_unfiltered = True
    assert torch.equal(kernels.sample(logits, batch), tokens)
    batch.temperatures.zero_()
    greedy = kernels.sample(logits, batch)
    batch.all_greedy = True
    assert torch.equal(kernels.sample(logits, batch), greedy)


def test_triton_draws_the_tokens_that_the_reference_draws() -> None:
    logits = torch.randn(24, 300)
    batch = batch_of(24, top_k=[0, 20] * 12, top_p=[1.0, 1.0, 0.9] * 8, typical_p=[1.0, 1.0, 1.0, 0.6] * 6)
    assert torch.equal(triton.sample(logits, batch), reference.sample(logits, batch))


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_triton_draws_the_reference_s_tokens_from_long_rows_read_once(spread: float) -> None:
    logits, batch = spread * torch.randn(16, 9000), batch_of(16, temperature=[0.7, 1.0, 0.0, 1.5] * 4)
    batch.all_unfiltered = True
    assert torch.equal(triton.sample(logits, batch), reference.sample(logits, batch))


def test_typical_p_keeps_what_transformers_keeps(kernels: ModuleType) -> None:
    logits = 3 * torch.randn(1, 60)
    kept = TypicalLogitsWarper(mass=0.4)(torch.empty(0), logits) > -INF
    count = 60 if kernels is triton else 600  # interpreted, rows are slow
    tokens = kernels.sample(logits.expand(count, -1), batch_of(count, typical_p=0.4))
    assert kept[0, tokens].all()


def test_draws_follow_the_distribution(kernels: ModuleType) -> None:
    count = 50_000 if kernels is reference else 250
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, -INF, 0.5, 1.5, -0.5])
    expected = logits.softmax(0)[logits > -INF] * count
    tokens = kernels.sample(logits.expand(count, -1), batch_of(count, seeds=torch.arange(count) + 12345))
    observed = torch.bincount(tokens, minlength=8)
    assert observed[4] == 0
    chi_square = ((observed[logits > -INF] - expected) ** 2 / expected).sum()
    assert float(chi_square) < 37  # 6 degrees of freedom, p < 2e-6


def test_a_filtered_token_is_never_drawn_however_small_its_number(kernels: ModuleType) -> None:
    # The seeds whose numbers for the first token are the smallest of many.
    seeds = torch.arange(1_000_000)
    index = torch.zeros(len(seeds), dtype=torch.int32)
    numbers = exponentials(row_keys(seeds, index, torch.full_like(seeds, 11)), 1)[:, 0]
    luckiest = numbers.topk(8, largest=False).indices
    logits = torch.randn(8, 1300)
    logits[:, 0] = -20.0
    batch = batch_of(8, top_k=[50, 50, 0, 0, 0, 0, 1, 1], top_p=[1.0] * 4 + [0.9] * 4, seeds=seeds[luckiest])
    batch.min_p[2:4] = 0.01
    assert (kernels.sample(logits, batch) != 0).all()


@pytest.mark.parametrize("vocab_size", [300, 50_000])
def test_the_last_bits_of_the_logits_hardly_ever_change_a_draw(vocab_size: int) -> None:
    logits = torch.randn(64, vocab_size)
    batch = batch_of(64, temperature=2.0)
    disturbed = logits * (1 + 1e-6 * torch.randn_like(logits))
    assert (reference.sample(logits, batch) != reference.sample(disturbed, batch)).sum() <= 1


@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_strange_logits_have_a_defined_answer(kernels: ModuleType, top_p: float) -> None:
    logits = torch.randn(5, 40)
    logits[0] = NAN
    logits[1] = -INF
    logits[2, 7] = INF
    logits[3, ::2] = NAN
    logits[4, [3, 9]] = INF
    batch = batch_of(5, top_p=top_p)
    batch.all_unfiltered = top_p == 1.0
    tokens = kernels.sample(logits, batch).tolist()
    assert tokens[:3] == [0, 0, 7]
    assert tokens[3] % 2 == 1
    assert tokens[4] in (3, 9)


@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_logits_of_infinity_share_the_row(kernels: ModuleType, top_p: float) -> None:
    logits = torch.randn(16, 40)
    logits[:, [3, 9]] = INF
    batch = batch_of(16, top_p=top_p)
    batch.all_unfiltered = top_p == 1.0
    assert set(kernels.sample(logits, batch).tolist()) == {3, 9}


@pytest.mark.filterwarnings("ignore:overflow encountered in subtract")
def test_huge_logits_and_tiny_temperatures_do_not_overflow(kernels: ModuleType) -> None:
    logits = torch.tensor([[3e38, -3e38, 1.0], [0.0, 1e-3, 2e-3]])
    assert kernels.sample(logits, batch_of(2, temperature=[1.0, 1e-7])).tolist() == [0, 2]


@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(st.floats(-8, 8, width=16), min_size=1, max_size=12),
    temperature=st.floats(0.25, 3, width=16),
    top_k=st.integers(0, 14),
    top_p=st.floats(0.0625, 1.0, width=16),
    min_p=st.floats(0.0, 1.0, width=16),
    typical_p=st.floats(0.0625, 1.0, width=16),
    seed=st.integers(0, 2**62),
)
def test_whatever_the_filters_the_draw_is_explained_by_the_oracle(
    logits: list[float],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    typical_p: float,
    seed: int,
) -> None:
    row = torch.tensor([logits])
    batch = batch_of(1, temperature, top_k, top_p, min_p, typical_p, seeds=torch.tensor([seed]))
    assert_drawn_by_race(row, batch, reference.sample(row, batch))
