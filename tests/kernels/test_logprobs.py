"""Log-probabilities, ranks and the most likely tokens."""

from __future__ import annotations

import itertools
from types import ModuleType

import pytest
import torch
from torch import Tensor

from tokenwire_kernels import reference

NAN, INF = float("nan"), float("inf")
VOCABULARIES = [
    *itertools.product([1, 77, 2048, 5000], [torch.float32, torch.float16, torch.bfloat16]),
    (70_001, torch.bfloat16),
]
"""Smaller than a part of a row, one part, several, and more than are compared at a time."""


def exact(logits: Tensor, rows: Tensor | None, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Log-softmax of the rows in float64, and each token's rank by sorting."""
    chosen = (logits if rows is None else logits[rows]).double()
    of_token = chosen.gather(1, tokens[:, None])
    return chosen.log_softmax(dim=1), (chosen > of_token).sum(dim=1) + 1


def assert_scored(logits: Tensor, rows: Tensor | None, tokens: Tensor, num_top: int, scored: tuple) -> None:
    """Equal logits may come in any order, but each once."""
    logprobs, ids = scored
    wanted, ranks = exact(logits, rows, tokens)
    assert logprobs.shape == ids.shape == (len(tokens), 1 + num_top)
    assert (logprobs.dtype, ids.dtype) == (torch.float32, torch.int64)
    close = {"rtol": 1e-6, "atol": 2e-5}
    torch.testing.assert_close(logprobs[:, 0].double(), wanted.gather(1, tokens[:, None])[:, 0], **close)
    assert torch.equal(ids[:, 0], ranks)
    top = ids[:, 1:]
    torch.testing.assert_close(logprobs[:, 1:].double(), wanted.topk(num_top, dim=1).values, **close)
    torch.testing.assert_close(logprobs[:, 1:].double(), wanted.gather(1, top), **close)
    assert all(len(set(row)) == num_top for row in top.tolist())


@pytest.mark.parametrize(("vocab_size", "dtype"), VOCABULARIES, ids=str)
@pytest.mark.parametrize("num_top", [0, 1, 5, 20])
def test_scores_are_the_log_softmax_in_float64(
    kernels: ModuleType, vocab_size: int, dtype: torch.dtype, num_top: int
) -> None:
    logits = (8 * torch.randn(3, vocab_size)).to(dtype)
    tokens = torch.randint(vocab_size, (3,))
    num_top = min(num_top, vocab_size)
    assert_scored(logits, None, tokens, num_top, kernels.score_tokens(logits, None, tokens, num_top))


def test_rows_are_chosen_and_the_logits_stay_as_they_were(kernels: ModuleType) -> None:
    logits, rows = torch.randn(6, 3000), torch.tensor([5, 0, 0, 3])
    tokens = torch.randint(3000, (4,))
    before = logits.clone()
    assert_scored(logits, rows, tokens, 7, kernels.score_tokens(logits, rows, tokens, 7))
    assert torch.equal(logits, before)


def test_rows_may_be_apart(kernels: ModuleType) -> None:
    wide = torch.full((4, 2100), NAN)
    wide[:, :2060] = torch.randn(4, 2060)
    tokens = torch.tensor([0, 2059, 7, 1000])
    logits = wide[:, :2060]
    assert_scored(logits, None, tokens, 4, kernels.score_tokens(logits, None, tokens, 4))


@pytest.mark.parametrize("step", [0.0, 0.5], ids=["all equal", "many equal"])
def test_equal_logits_share_the_better_rank_and_come_once_each(kernels: ModuleType, step: float) -> None:
    logits = (torch.randn(3, 5000) / max(step, 1e-9)).round() * step
    tokens = torch.tensor([0, 4999, 2500])
    assert_scored(logits, None, tokens, 20, kernels.score_tokens(logits, None, tokens, 20))


def test_the_most_likely_tokens_may_all_be_in_one_part(kernels: ModuleType) -> None:
    logits = torch.randn(2, 9000)
    logits[0, 4200:4300] += 30.0
    logits[1, ::450] += 30.0
    tokens = torch.tensor([4250, 0])
    assert_scored(logits, None, tokens, 20, kernels.score_tokens(logits, None, tokens, 20))


def test_withheld_tokens_have_no_probability_and_come_last(kernels: ModuleType) -> None:
    logits = torch.full((2, 2500), -INF)
    logits[:, [3, 2200]] = torch.tensor([1.0, 2.0])
    logprobs, ids = kernels.score_tokens(logits, None, torch.tensor([3, 9]), 4)
    assert ids[:, 0].tolist() == [2, 3]
    assert ids[:, 1:3].tolist() == [[2200, 3]] * 2
    torch.testing.assert_close(logprobs[0, :3], torch.tensor([-1.3133, -0.3133, -1.3133]), rtol=0, atol=1e-4)
    assert logprobs[1, 0] == -INF
    assert logprobs[:, 3:].eq(-INF).all()


def test_strange_logits_have_a_defined_answer(kernels: ModuleType) -> None:
    """As where tokens are sampled: NaN is withheld, plus infinities share the row."""
    logits = torch.tensor([[NAN, 1.0, 2.0], [NAN, NAN, NAN], [-INF, -INF, -INF], [INF, NAN, INF]])
    logprobs, ids = kernels.score_tokens(logits, None, torch.tensor([0, 1, 2, 2]), 1)
    assert logprobs[:3, 0].tolist() == [-INF] * 3
    assert ids[:, 0].tolist() == [3, 1, 1, 1]
    assert ids[0, 1] == 2
    assert logprobs[3].tolist() == pytest.approx([-0.6931472] * 2)
    assert logprobs[1:3, 1].tolist() == [-INF] * 2


def test_no_rows_are_no_scores(kernels: ModuleType) -> None:
    nothing = torch.empty(0, dtype=torch.int64)
    logprobs, ids = kernels.score_tokens(torch.randn(2, 50), nothing, nothing, 3)
    assert logprobs.shape == ids.shape == (0, 4)


def test_float64_logits_are_scored_in_float64() -> None:
    logits, tokens = 20 * torch.randn(4, 300).double(), torch.tensor([1, 2, 3, 4])
    logprobs, _ = reference.score_tokens(logits, None, tokens, 0)
    torch.testing.assert_close(logprobs, exact(logits, None, tokens)[0].gather(1, tokens[:, None]))
