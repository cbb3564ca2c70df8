"""Penalties follow transformers' and OpenAI's formulas, and touch only the requests that have them."""

from __future__ import annotations

import torch
from transformers import RepetitionPenaltyLogitsProcessor

from tests.engine.sampling.harness import VOCAB, changed, new_sampler, step
from tokenwire_engine.sampling.params import SamplingParams

PROMPT, OUTPUT = [3, 7, 7, 9], [9, 11, 11, 11]
GREEDY = SamplingParams(temperature=0.0)


def greedy(**penalties: float) -> SamplingParams:
    return SamplingParams(temperature=0.0, **penalties)


def penalized(params: SamplingParams, logits: torch.Tensor) -> torch.Tensor:
    """The logits that a request with `PROMPT` and `OUTPUT` samples from."""
    return changed(params, logits, PROMPT, OUTPUT)


def test_the_repetition_penalty_is_transformers() -> None:
    logits = torch.randn(1, VOCAB)
    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([PROMPT + OUTPUT]), logits.clone())
    torch.testing.assert_close(penalized(greedy(repetition_penalty=1.3), logits), expected)


def test_presence_and_frequency_count_the_output_only() -> None:
    logits = torch.randn(1, VOCAB)
    counts = torch.bincount(torch.tensor(OUTPUT), minlength=VOCAB)
    expected = logits - 0.5 * counts - 0.25 * (counts > 0)
    torch.testing.assert_close(
        penalized(greedy(frequency_penalty=0.5, presence_penalty=0.25), logits), expected
    )


def test_repetition_comes_before_the_subtractions() -> None:
    logits = torch.full((1, VOCAB), 2.0)
    result = penalized(greedy(repetition_penalty=2.0, presence_penalty=0.5), logits)[0]
    assert (result[3], result[11], result[0]) == (1.0, 0.5, 2.0)


def test_requests_without_penalties_are_untouched_and_have_nothing_prepared() -> None:
    sampler = new_sampler(2)
    sampler.admit(0, greedy(presence_penalty=1.0), PROMPT, OUTPUT)
    sampler.admit(1, GREEDY, PROMPT, OUTPUT)
    logits = torch.randn(2, VOCAB)
    assert torch.equal(step(sampler, [0, 1], logits)[1][1], logits[1])
    assert sampler.prepare([1], torch.zeros(1).numpy()) == {}


def test_sampled_tokens_are_counted() -> None:
    sampler = new_sampler()
    sampler.admit(0, greedy(frequency_penalty=1.0), [], [])
    logits = torch.zeros(1, VOCAB)
    logits[0, 5], logits[0, 6] = 2.5, 2.0
    assert [step(sampler, [0], logits)[0].tokens.tolist() for _ in range(5)] == [[5], [6], [5], [6], [5]]


def test_a_slot_forgets_its_request_when_released() -> None:
    sampler = new_sampler(6)
    logits = torch.randn(6, VOCAB)
    for _ in range(3):
        for slot in range(6):
            sampler.admit(slot, greedy(presence_penalty=1.0), PROMPT, OUTPUT)
        for slot in range(6):
            sampler.release(slot)
    for slot in range(6):
        sampler.admit(slot, greedy(presence_penalty=1.0), [], [])
    assert torch.equal(step(sampler, list(range(6)), logits)[1], logits)
