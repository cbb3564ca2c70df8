"""What a step's time consists of, from the times that steps took."""

from __future__ import annotations

import random

import pytest

from tokenwire_engine.scheduler.step_cost import StepCost


def seconds(num_decodes: int, num_prompt_tokens: int) -> float:
    return 0.01 + 0.0005 * num_decodes + 0.0003 * num_prompt_tokens


def seen(steps: list[tuple[int, int]], noise: float = 0.0) -> StepCost:
    chooser = random.Random(0)
    cost = StepCost()
    for step in steps:
        cost.observe(seconds(*step) * chooser.lognormvariate(0.0, noise), *step)
    return cost


MIXED = [(0, 512), (1, 500), (4, 0), (8, 200), (16, 70), (32, 0), (24, 30)] * 10


def test_the_terms_are_found() -> None:
    cost = seen(MIXED)
    assert cost.step_s == pytest.approx(0.01, rel=0.02)
    assert cost.decode_s == pytest.approx(0.0005, rel=0.02)
    assert cost.prompt_token_s == pytest.approx(0.0003, rel=0.02)


def test_times_that_scatter_are_averaged() -> None:
    cost = seen(MIXED, noise=0.1)
    assert cost.decodes_s(16) == pytest.approx(seconds(16, 0), rel=0.1)
    assert cost.prompt_token_s == pytest.approx(0.0003, rel=0.1)


def test_a_step_that_was_held_up_hardly_counts() -> None:
    cost = seen(MIXED)
    cost.observe(20 * seconds(16, 100), 16, 100)
    assert cost.prompt_token_s == pytest.approx(0.0003, rel=0.1)


def test_steps_that_are_all_alike_do_not_undo_what_was_learnt() -> None:
    cost = seen([*MIXED, *[(16, 64)] * 200])
    assert cost.decodes_s(16) == pytest.approx(seconds(16, 0), rel=0.05)
    assert cost.prompt_token_s == pytest.approx(0.0003, rel=0.05)


def test_a_change_is_followed() -> None:
    cost = seen(MIXED)
    for step in MIXED:
        cost.observe(2 * seconds(*step), *step)
    assert cost.decodes_s(16) == pytest.approx(2 * seconds(16, 0), rel=0.1)


def test_a_term_of_which_no_step_had_any_is_not_known() -> None:
    assert seen([(1, 0), (3, 0), (7, 0)] * 5).prompt_token_s == 0.0


def test_a_step_that_took_no_time_says_nothing() -> None:
    cost = StepCost()
    cost.observe(0.0, 3, 5)
    assert cost.decodes_s(3) == 0.0
