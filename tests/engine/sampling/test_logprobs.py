"""Log-probabilities are of the model's own distribution, whatever is sampled from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.engine.sampling.harness import CPU, VOCAB, new_sampler, step
from tokenwire_engine.sampling.logprobs import Logprobs
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.sampling.sampler import Sampler
from tokenwire_kernels import select_kernels


def test_each_request_gets_as_many_alternatives_as_it_asked_for_and_others_none() -> None:
    sampler = new_sampler(3)
    sampler.admit(0, SamplingParams(temperature=0.0, num_logprobs=0), [], [])
    sampler.admit(1, SamplingParams(temperature=0.0), [], [])
    sampler.admit(2, SamplingParams(temperature=0.0, num_logprobs=4), [], [])
    logits = torch.randn(3, VOCAB)
    sampled, _ = step(sampler, [0, 1, 2], logits)
    exact = logits.double().log_softmax(dim=1)
    assert sampler.scored([0, 1, 2]) == [(0, 0), (2, 4)]
    assert sampled.scores is not None
    first, second = sampled.scores.columns(0, 1, 0), sampled.scores.columns(1, 1, 4)
    assert (first.top_token_ids, first.top_logprobs) == ([], [])
    assert second.top_token_ids == exact[2].topk(4).indices.tolist()
    assert second.token_ranks == [1]
    assert abs(first.token_logprobs[0] - float(exact[0].max())) < 1e-5


def test_sampling_parameters_do_not_change_them() -> None:
    sampler = new_sampler(2)
    sampler.admit(0, SamplingParams(temperature=0.0, num_logprobs=1), [], [])
    shaped = SamplingParams(
        temperature=0.3, top_k=2, logit_bias={5: 9.0}, allowed_token_ids=(5,), presence_penalty=2.0,
        bad_words=((1,),), num_logprobs=1,
    )  # fmt: skip
    sampler.admit(1, shaped, [5], [5])
    logits = torch.randn(1, VOCAB)
    sampled, _ = step(sampler, [0, 1], logits.expand(2, -1))
    assert sampled.scores is not None
    plain, other = sampled.scores.columns(0, 1, 1), sampled.scores.columns(1, 1, 1)
    assert sampled.tokens[1] == 5
    assert other.top_logprobs == plain.top_logprobs
    assert abs(other.token_logprobs[0] - float(logits.double().log_softmax(dim=1)[0, 5])) < 1e-5


@pytest.mark.parametrize("bias", [{}, {5: 9.0}], ids=["as they came", "biased"])
def test_logits_are_copied_only_where_they_change_before_they_are_scored(bias: dict[int, float]) -> None:
    scored: list[tuple[bool, list[int] | None]] = []
    kernels = select_kernels(CPU)

    def score(logits: Tensor, rows: Tensor | None, *given: Any) -> tuple[Tensor, Tensor]:
        scored.append((logits.data_ptr() == sampled_from.data_ptr(), None if rows is None else rows.tolist()))
        return kernels.score_tokens(logits, rows, *given)

    sampler = Sampler(3, VOCAB, CPU, replace(kernels, score_tokens=score))
    for slot in range(3):
        num_logprobs = None if slot == 1 else 2
        sampler.admit(slot, SamplingParams(0.0, logit_bias=bias, num_logprobs=num_logprobs), [], [])
    sampled_from = torch.randn(3, VOCAB)
    prepared = sampler.prepare([0, 1, 2], np.arange(3))
    sampler.sample(sampled_from, [0, 1, 2], {name: torch.from_numpy(x) for name, x in prepared.items()})
    assert scored == [(False, None) if bias else (True, [0, 2])]


def test_a_batch_without_them_computes_none() -> None:
    sampler = new_sampler(2)
    sampler.admit(0, SamplingParams(num_logprobs=3), [], [])
    sampler.admit(1, SamplingParams(), [], [])
    assert step(sampler, [1], torch.randn(1, VOCAB))[0].scores is None
    sampler.release(0)
    sampler.admit(0, SamplingParams(), [], [])
    assert step(sampler, [0, 1], torch.randn(2, VOCAB))[0].scores is None


def test_columns_are_cut_at_a_token() -> None:
    whole = Logprobs(2, [-1.0, -2.0, -3.0], [1, 2, 3], [1, 2, 3, 4, 5, 6], [-1, -2, -3, -4, -5, -6])
    first = whole.take(2)
    assert first == Logprobs(2, [-1.0, -2.0], [1, 2], [1, 2, 3, 4], [-1, -2, -3, -4])
    assert whole == Logprobs(2, [-3.0], [3], [5, 6], [-5, -6])
    first.extend(whole)
    assert len(first) == 3
