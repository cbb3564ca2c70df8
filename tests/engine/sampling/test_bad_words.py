"""A bad word's last token is withheld exactly while the output ends with the tokens before it."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import NoBadWordsLogitsProcessor

from tests.engine.sampling.harness import changed, new_sampler, step
from tokenwire_engine.sampling.params import MAX_BAD_WORD_TOKENS, SamplingParams

VOCAB = 6
TOKENS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None)
@given(words=st.lists(TOKENS, min_size=1, max_size=6, unique_by=tuple), output=TOKENS)
def test_what_is_withheld_is_what_transformers_withholds(words: list[list[int]], output: list[int]) -> None:
    logits = torch.randn(1, VOCAB)
    expected = NoBadWordsLogitsProcessor(words)(torch.tensor([output]), logits.clone())
    params = SamplingParams(bad_words=tuple(tuple(word) for word in words))
    assert torch.equal(changed(params, logits, output=output), expected)


def test_the_prompt_does_not_count() -> None:
    logits = torch.randn(1, VOCAB)
    assert torch.equal(changed(SamplingParams(bad_words=((1, 2),)), logits, prompt=[1]), logits)


def test_tokens_count_as_they_are_sampled_beside_requests_without_words() -> None:
    sampler = new_sampler(2, VOCAB)
    sampler.admit(0, SamplingParams(temperature=0.0, bad_words=((1, 1, 1), (2, 1))), [], [])
    sampler.admit(1, SamplingParams(temperature=0.0), [], [])
    logits = torch.tensor([[0.0, 3.0, 2.0, 1.0, 0.0, 0.0]] * 2)
    rows = [step(sampler, [1, 0], logits)[0].tokens.tolist() for _ in range(6)]
    assert [row[0] for row in rows] == [1] * 6
    assert [row[1] for row in rows] == [1, 1, 2, 2, 2, 2]


def test_the_longest_word_is_found_after_a_resume() -> None:
    word = tuple(index % VOCAB for index in range(MAX_BAD_WORD_TOKENS))
    logits = torch.randn(1, VOCAB)
    params = SamplingParams(bad_words=(word,))
    assert changed(params, logits, output=[5, *word[:-1]])[0, word[-1]] == -float("inf")
    assert torch.equal(changed(params, logits, output=[*word[1:-1]]), logits)
