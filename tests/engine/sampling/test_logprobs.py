"""Log-probabilities are of the model's own distribution, whatever is sampled from it."""

from __future__ import annotations

import torch

from tests.engine.sampling.harness import VOCAB, new_sampler, step
from tokenwire_engine.sampling.logprobs import Logprobs
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.sampling.scores import score


def test_scores_are_the_log_softmax_in_float64() -> None:
    logits = 20 * torch.randn(7, 1000)
    tokens = torch.randint(1000, (7,))
    exact = logits.double().log_softmax(dim=1)
    scores = score(logits, tokens, 5)
    torch.testing.assert_close(
        scores.logprobs[:, 0].double(), exact[torch.arange(7), tokens], rtol=1e-6, atol=1e-5
    )
    best, ids = exact.topk(5, dim=1)
    torch.testing.assert_close(scores.logprobs[:, 1:].double(), best, rtol=1e-6, atol=1e-5)
    assert torch.equal(scores.ids[:, 1:], ids)
    order = exact.argsort(dim=1, descending=True)
    assert scores.ids[:, 0].tolist() == [order[row].tolist().index(tokens[row]) + 1 for row in range(7)]


def test_tokens_of_equal_probability_share_the_better_rank() -> None:
    scores = score(torch.tensor([[1.0, 3.0, 1.0, 0.0]]).expand(4, -1), torch.arange(4), 0)
    assert scores.ids.tolist() == [[2], [1], [2], [4]]


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
