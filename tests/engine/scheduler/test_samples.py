"""Several samples of one prompt: its blocks are shared, and copied where they part."""

from __future__ import annotations

import pytest

from tests.engine.hash_runner import continuation
from tests.engine.scheduler.simulation import Simulation
from tokenwire_engine.scheduler.request import FinishReason

PROMPT = list(range(100, 140))
"""Two blocks and a half."""


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("overlap", [True, False])
def test_the_prompt_of_all_samples_is_computed_once(prefix_cache: bool, overlap: bool) -> None:
    simulation = Simulation(prefix_cache=prefix_cache, overlap=overlap)
    simulation.submit(PROMPT, max_tokens=20, num_samples=4)
    simulation.run()
    assert simulation.samples[0] == {sample: continuation(PROMPT, 20, sample) for sample in range(4)}
    # Each of the others computes the last token again, for the logits.
    assert simulation.scheduler.counters.prompt_tokens == len(PROMPT) + 3


def test_samples_share_full_blocks_and_copy_the_one_that_they_write_to() -> None:
    simulation = Simulation()
    simulation.submit(PROMPT, num_samples=3)
    simulation.step()
    plan = simulation.step()
    assert plan is not None
    first, *others = simulation.requests
    assert [request.tables[0].blocks[:2] for request in others] == [first.tables[0].blocks[:2]] * 2
    assert simulation.pool.holders(first.tables[0].blocks[0]) == 3
    assert plan.copies == [(first.tables[0].blocks[2], request.tables[0].blocks[2]) for request in others]


def test_a_prompt_that_ends_with_its_block_needs_no_copy_but_of_the_last_block() -> None:
    simulation = Simulation()
    simulation.submit(PROMPT[:33], num_samples=2)
    simulation.step()
    plan = simulation.step()
    assert plan is not None
    assert plan.copies == []  # the last token, which is computed again, begins a block
    simulation.run()
    assert simulation.samples[0][1] == continuation(PROMPT[:33], 8, 1)


def test_samples_go_ahead_of_requests_that_came_later() -> None:
    simulation = Simulation(max_running=1)
    simulation.submit(PROMPT, max_tokens=2, num_samples=3)
    later = simulation.submit([1], max_tokens=1)
    while 0 not in simulation.finished:
        simulation.step()
        assert simulation.delivered[later] == []
    simulation.run()


def test_a_prompt_in_chunks_is_not_held_up_by_the_samples_that_wait_for_it() -> None:
    simulation = Simulation(max_step_tokens=16)
    simulation.submit(PROMPT, num_samples=2)
    other = simulation.submit([1], max_tokens=1)
    simulation.run()
    assert simulation.delivered[other] == continuation([1], 1)
    assert simulation.samples[0][1] == continuation(PROMPT, 8, 1)


def test_the_end_of_the_last_sample_is_that_of_the_request() -> None:
    simulation = Simulation()
    stop = frozenset([continuation(PROMPT, 3, 1)[-1]])
    simulation.submit(PROMPT, max_tokens=9, num_samples=2, stop=stop)
    simulation.run()
    assert len(simulation.samples[0][1]) == 3
    finished = simulation.finished[0]
    assert (finished.sample_index, finished.completion_tokens, finished.prompt_tokens) == (0, 12, 40)
    assert simulation.scheduler.counters.finished_requests == 1


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_cancel_ends_all_samples_whether_they_have_begun_or_not(steps: int) -> None:
    simulation = Simulation(max_step_tokens=32)
    simulation.submit(PROMPT, num_samples=5)
    for _ in range(steps):
        simulation.step()
    simulation.scheduler.cancel("0")
    simulation.run()
    assert simulation.finished[0].reason is FinishReason.CANCELLED


def test_samples_whose_first_has_left_compute_the_prompt_themselves() -> None:
    simulation = Simulation(max_running=1, prefix_cache=False)
    simulation.submit(PROMPT, max_tokens=3, num_samples=3)
    simulation.run()
    assert simulation.samples[0] == {sample: continuation(PROMPT, 3, sample) for sample in range(3)}
