"""Logit bias, allowed tokens and forbidden single tokens are one row that is added."""

from __future__ import annotations

import torch
from transformers import NoBadWordsLogitsProcessor

from tests.engine.sampling.harness import VOCAB, changed, new_sampler, step
from tokenwire_engine.sampling.params import SamplingParams

INF = float("inf")


def test_a_bias_is_added_to_its_tokens_only() -> None:
    logits = torch.randn(1, VOCAB)
    expected = logits.clone()
    expected[0, 3] += 2.5
    expected[0, 7] -= 100
    torch.testing.assert_close(changed(SamplingParams(logit_bias={3: 2.5, 7: -100.0}), logits), expected)


def test_only_allowed_tokens_can_come() -> None:
    logits = torch.randn(1, VOCAB)
    result = changed(SamplingParams(allowed_token_ids=(4, 9), logit_bias={9: 1.0, 5: 100.0}), logits)
    assert (result > -INF).nonzero()[:, 1].tolist() == [4, 9]
    torch.testing.assert_close(result[0, [4, 9]], logits[0, [4, 9]] + torch.tensor([0.0, 1.0]))


def test_a_bad_word_of_one_token_never_comes_as_in_transformers() -> None:
    logits = torch.randn(1, VOCAB)
    expected = NoBadWordsLogitsProcessor([[6], [11]])(torch.tensor([[1, 2]]), logits.clone())
    assert torch.equal(changed(SamplingParams(bad_words=((6,), (11,))), logits), expected)


def test_biases_come_after_penalties() -> None:
    logits = torch.full((1, VOCAB), 2.0)
    params = SamplingParams(repetition_penalty=2.0, logit_bias={3: 4.0})
    assert changed(params, logits, prompt=[3])[0, 3] == 2.0 / 2.0 + 4.0


def test_a_slot_forgets_its_bias_when_released_and_others_never_see_it() -> None:
    sampler = new_sampler(6)
    for _ in range(2):
        for slot in range(6):
            sampler.admit(slot, SamplingParams(temperature=0.0, allowed_token_ids=(slot,)), [], [])
        assert step(sampler, [5, 0, 3], torch.randn(3, VOCAB))[0].tokens.tolist() == [5, 0, 3]
        for slot in range(6):
            sampler.release(slot)
    sampler.admit(1, SamplingParams(temperature=0.0), [], [])
    sampler.admit(2, SamplingParams(temperature=0.0, logit_bias={1: 1.0}), [], [])
    logits = torch.randn(2, VOCAB)
    assert torch.equal(step(sampler, [1, 2], logits)[1][0], logits[0])
