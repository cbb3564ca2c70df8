"""Nothing that ends a request can come before its minimum length, and everything can from then on."""

from __future__ import annotations

import torch
from transformers import MinNewTokensLengthLogitsProcessor

from tests.engine.sampling.harness import VOCAB, changed, new_sampler, step
from tokenwire_engine.sampling.params import SamplingParams

PROMPT = [4, 5, 6]
PARAMS = SamplingParams(temperature=0.0, min_tokens=3, ending_token_ids=(2, 8))


def test_what_is_withheld_is_what_transformers_withholds() -> None:
    processor = MinNewTokensLengthLogitsProcessor(len(PROMPT), 3, [2, 8])
    for length in range(5):
        output = [9] * length
        logits = torch.randn(1, VOCAB)
        expected = processor(torch.tensor([PROMPT + output]), logits.clone())
        assert torch.equal(changed(PARAMS, logits, PROMPT, output), expected)


def test_the_minimum_is_reached_while_a_request_runs() -> None:
    sampler = new_sampler()
    sampler.admit(0, PARAMS, PROMPT, [])
    logits = torch.zeros(1, VOCAB)
    logits[0, 8] = 1.0
    positions = range(3, 8)
    assert [step(sampler, [0], logits, [p])[0].tokens.tolist() for p in positions] == [[0]] * 3 + [[8]] * 2


def test_a_batch_of_long_enough_outputs_has_nothing_prepared() -> None:
    sampler = new_sampler()
    sampler.admit(0, PARAMS, PROMPT, [])
    assert sampler.prepare([0], torch.tensor([6]).numpy()) == {}
