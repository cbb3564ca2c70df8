"""Tokens that a grammar leaves no choice about are taken without being sampled."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.scheduler.simulation import Simulation
from tokenwire_engine.scheduler.request import FinishReason


class Forcing:
    """After each token that was sampled, as many others as its remainder by seven says can only follow."""

    is_finished = False
    error = ""

    def __init__(self) -> None:
        self.run: list[int] = []
        self.num_forced = 0

    def accept(self, token_id: int) -> bool:
        if self.run and self.run[0] == token_id:
            self.run.pop(0)
            self.num_forced += 1
        else:
            self.run = [10 + (token_id + index) % 900 for index in range(token_id % 7)]
        return True

    def forced(self) -> list[int]:
        return list(self.run)

    def mask(self) -> bytes:
        return b""

    def copy(self) -> Forcing:
        return Forcing()


def test_one_step_computes_all_that_can_only_follow() -> None:
    simulation = Simulation()
    simulation.runner.takes_forced = True
    simulation.submit([1, 2], max_tokens=100)
    grammar = simulation.requests[0].grammar = Forcing()
    simulation.run()
    assert len(simulation.delivered[0]) == 100
    assert simulation.delivered[0] == simulation.requests[0].output_token_ids
    assert simulation.scheduler.counters.generated_tokens == 100
    assert simulation.scheduler.counters.steps == 100 - grammar.num_forced
    assert grammar.num_forced > 50


@pytest.mark.parametrize("overlap", [False, True])
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=8), num_blocks=st.integers(7, 20))
@settings(max_examples=50, deadline=None)
def test_every_plan_stays_sound_when_blocks_run_out(
    overlap: bool, lengths: list[int], num_blocks: int
) -> None:
    """The hash runner asserts on each plan, the simulation on each block."""
    simulation = Simulation(num_blocks=num_blocks, max_step_tokens=32, overlap=overlap)
    simulation.runner.takes_forced = True
    for number, length in enumerate(lengths):
        simulation.submit([number + 1] * (1 + number), max_tokens=length)
        if number % 2 == 0:
            simulation.requests[number].grammar = Forcing()
    simulation.run()
    for number, length in enumerate(lengths):
        assert simulation.finished[number].reason is FinishReason.LENGTH
        assert len(simulation.delivered[number]) == length
        assert simulation.delivered[number] == simulation.requests[number].output_token_ids


def test_tokens_that_are_to_be_told_about_are_sampled() -> None:
    simulation = Simulation()
    simulation.runner.takes_forced = True
    simulation.submit([1, 2], max_tokens=20)
    request = simulation.requests[0]
    request.grammar = grammar = Forcing()
    request.sampling = type(request.sampling)(num_logprobs=0)
    simulation.run()
    assert grammar.num_forced == 0
    assert simulation.scheduler.counters.steps == 20
