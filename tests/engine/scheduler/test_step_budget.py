"""How many prompt tokens a step takes in, by what steps have cost so far."""

from __future__ import annotations

import pytest

from tokenwire_engine.scheduler.step_budget import LEAST_TOKENS, MOST_EXTRA_S, StepBudget


def measured(decode_s: float, token_s: float) -> StepBudget:
    """A budget that has seen steps of a device, which take as long for few decodes as for many."""
    budget = StepBudget(512, adapts=True)
    for _ in range(20):
        budget.observe(decode_s + 100 * token_s, 0, 100)
        budget.observe(decode_s, 16, 0)
        budget.observe(decode_s, 4, 0)
        budget.observe(decode_s + 50 * token_s, 16, 50)
    return budget


def test_prompts_may_double_the_time_of_a_step_of_decodes() -> None:
    assert measured(decode_s=0.1, token_s=0.001).prompt_tokens(
        num_decodes=16, num_waiting=1
    ) == pytest.approx(100, abs=1)


def test_fast_decodes_do_not_make_prompts_crawl() -> None:
    assert measured(decode_s=0.001, token_s=0.0001).prompt_tokens(
        num_decodes=16, num_waiting=1
    ) == pytest.approx(200, abs=1)


def test_prompts_take_longer_where_more_requests_wait_for_their_first_token_than_for_their_next() -> None:
    budget = measured(decode_s=0.03, token_s=0.001)
    assert budget.prompt_tokens(num_decodes=4, num_waiting=4) == pytest.approx(30, abs=1)
    assert budget.prompt_tokens(num_decodes=4, num_waiting=12) == pytest.approx(90, abs=1)


def test_however_many_wait_the_streams_are_not_kept_for_long() -> None:
    most = MOST_EXTRA_S / 0.001
    budget = measured(decode_s=0.03, token_s=0.001)
    assert budget.prompt_tokens(num_decodes=1, num_waiting=500) == pytest.approx(most, abs=1)
    slow = measured(decode_s=0.4, token_s=0.001)
    assert slow.prompt_tokens(num_decodes=1, num_waiting=500) == pytest.approx(400, abs=1)


def test_however_slow_prompts_are_they_get_on() -> None:
    assert measured(decode_s=0.001, token_s=1.0).prompt_tokens(num_decodes=16, num_waiting=1) == LEAST_TOKENS


def test_with_nobody_decoding_a_step_is_as_large_as_it_may_be() -> None:
    assert measured(decode_s=0.001, token_s=1.0).prompt_tokens(num_decodes=0, num_waiting=1) == 512


def test_what_is_measured_never_exceeds_the_most() -> None:
    assert measured(decode_s=10.0, token_s=0.0001).prompt_tokens(num_decodes=12, num_waiting=1) == 500


def test_a_budget_that_was_given_is_kept() -> None:
    budget = StepBudget(512, adapts=False)
    budget.observe(1.0, 0, 10)
    budget.observe(0.1, 1, 0)
    assert budget.prompt_tokens(num_decodes=1, num_waiting=9) == 511


def test_nothing_is_bounded_before_anything_is_known() -> None:
    assert StepBudget(512, adapts=True).prompt_tokens(num_decodes=2, num_waiting=1) == 510


def test_prompts_do_not_crawl_once_many_decode_beside_them() -> None:
    """A step's own time is no reason to take fewer tokens into it, which would make them look the dearer."""
    budget = measured(decode_s=0.02, token_s=0.0003)
    for num_decodes in range(4, 21):
        for _ in range(10):
            taken = budget.prompt_tokens(num_decodes, num_waiting=1)
            budget.observe(0.02 + 0.001 * num_decodes + 0.0003 * taken, num_decodes, taken)
    assert budget.prompt_tokens(num_decodes=20, num_waiting=1) > 100
