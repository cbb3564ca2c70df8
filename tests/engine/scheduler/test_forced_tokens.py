"""Tokens that a grammar leaves no choice about are taken without being sampled."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.grammars import mask_of
from tests.engine.hash_runner import VOCAB_SIZE
from tests.engine.scheduler.simulation import Simulation
from tokenwire_engine.scheduler.request import FinishReason

BLOCK_SIZE = 16


class Forcing:
    """After each token that leaves a choice come as many without one as its remainder by seven says."""

    error = ""

    def __init__(self, ends_after: int = 10_000) -> None:
        self.run: list[int] = []
        self.num_left = ends_after
        """Tokens that leave a choice."""

    @property
    def is_finished(self) -> bool:
        return self.num_left == 0 and not self.run

    def accept(self, token_id: int) -> bool:
        if self.run:
            return self.run.pop(0) == token_id
        self.num_left -= 1
        self.run = [10 + (token_id + index) % 900 for index in range(token_id % 7)]
        return True

    def forced(self) -> list[int]:
        return list(self.run)

    def mask(self) -> bytes:
        return mask_of(self.run[:1] or range(VOCAB_SIZE), VOCAB_SIZE)

    def copy(self) -> Forcing:
        copy = Forcing(self.num_left)
        copy.run = list(self.run)
        return copy


def num_taken(num_prompt: int, output: Sequence[int]) -> int:
    """Tokens of an output that need not be sampled: all that are forced, but for the first of a block."""
    grammar, count = Forcing(), 0
    for position, token_id in enumerate(output, start=num_prompt):
        count += bool(grammar.run) and position % BLOCK_SIZE != 0
        assert grammar.accept(token_id)
    return count


def test_one_step_computes_all_that_can_only_follow() -> None:
    simulation = Simulation(block_size=BLOCK_SIZE)
    simulation.runner.takes_forced = True
    simulation.submit([1, 2], max_tokens=100)
    simulation.requests[0].grammar = Forcing()
    simulation.run()
    assert len(simulation.delivered[0]) == 100
    assert simulation.delivered[0] == simulation.requests[0].output_token_ids
    assert simulation.scheduler.counters.generated_tokens == 100
    taken = num_taken(2, simulation.delivered[0])
    assert simulation.scheduler.counters.steps == 100 - taken
    assert taken > 50


def test_with_a_step_on_its_way_runs_of_them_are_taken_and_what_it_samples_is_passed_over() -> None:
    simulation = Simulation(overlap=True)
    simulation.runner.takes_forced = True
    simulation.submit([1, 2], max_tokens=100)
    simulation.requests[0].grammar = Forcing()
    simulation.run()
    assert simulation.scheduler.counters.generated_tokens == 100
    constrained = simulation.runner.constrained
    num_passed_over = sum(1 - count for count in constrained.values())
    assert num_passed_over > 5
    assert len(constrained) == simulation.scheduler.counters.steps < 100 - num_passed_over
    one_by_one = Simulation()
    one_by_one.runner.takes_forced = True
    one_by_one.submit([1, 2], max_tokens=100)
    one_by_one.requests[0].grammar = Forcing()
    one_by_one.run()
    assert simulation.delivered == one_by_one.delivered


@pytest.mark.parametrize("overlap", [False, True])
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    num_blocks=st.integers(7, 20),
    ends_after=st.integers(1, 30),
    failing=st.none() | st.integers(0, 30),
)
@settings(max_examples=100, deadline=None)
def test_every_plan_stays_sound_when_blocks_run_out(
    overlap: bool, lengths: list[int], num_blocks: int, ends_after: int, failing: int | None
) -> None:
    """The hash runner asserts on each plan, the simulation on each block; a step that fails changes nothing
    for those who were not in it."""
    expected = Simulation(num_blocks=64, max_step_tokens=32)
    simulation = Simulation(num_blocks=num_blocks, max_step_tokens=32, overlap=overlap)
    for each in (expected, simulation):
        each.runner.takes_forced = True
        for number, length in enumerate(lengths):
            each.submit([number + 1] * (1 + number), max_tokens=length)
            if number % 2 == 0:
                each.requests[number].grammar = Forcing(ends_after if number % 4 == 0 else 10_000)
    expected.run()
    for _ in range(failing or 0):
        simulation.step()
    if failing is not None and simulation.scheduler.has_work:
        simulation.fail_next_step()
    simulation.run()
    for number in range(len(lengths)):
        if simulation.finished[number].reason is FinishReason.ERROR:
            delivered = simulation.delivered[number]
            assert delivered == expected.delivered[number][: len(delivered)]
        else:
            assert simulation.finished[number].reason is expected.finished[number].reason
            assert simulation.delivered[number] == expected.delivered[number]
            assert simulation.delivered[number] == simulation.requests[number].output_token_ids
    assert failing is not None or all(
        end.reason is not FinishReason.ERROR for end in simulation.finished.values()
    )


def test_tokens_that_are_to_be_told_about_are_sampled() -> None:
    simulation = Simulation()
    simulation.runner.takes_forced = True
    simulation.submit([1, 2], max_tokens=20)
    request = simulation.requests[0]
    request.grammar = Forcing()
    request.sampling = type(request.sampling)(num_logprobs=0)
    simulation.run()
    assert simulation.scheduler.counters.steps == 20
