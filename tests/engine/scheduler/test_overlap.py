"""Steps that are planned before the result of the one before them is known."""

from __future__ import annotations

from tests.engine.grammars import Alternating, alternates
from tests.engine.hash_runner import VOCAB_SIZE, continuation
from tests.engine.scheduler.simulation import Simulation
from tokenwire_engine.scheduler.plan import PENDING, StepPlan
from tokenwire_engine.scheduler.request import FinishReason


def planned(simulation: Simulation) -> StepPlan:
    plan = simulation.step()
    assert plan is not None
    return plan


def test_a_token_that_is_not_known_yet_is_computed_all_the_same() -> None:
    simulation = Simulation(overlap=True)
    simulation.submit([1, 2], max_tokens=3)
    assert planned(simulation).rows()[0].token_ids == [1, 2]
    row = planned(simulation).rows()[0]
    assert (row.start, row.token_ids, row.samples) == (2, (PENDING,), True)
    simulation.run()
    assert simulation.delivered[0] == continuation([1, 2], 3)


def test_an_end_that_is_foreseen_costs_no_token_too_many() -> None:
    simulation = Simulation(overlap=True)
    simulation.submit([1, 2], max_tokens=2)
    rows = 0
    while simulation.scheduler.has_work:
        plan = simulation.step()
        rows += 0 if plan is None else plan.num_rows
    assert rows == 2


def test_a_stop_that_is_found_a_step_late_discards_one_token() -> None:
    simulation = Simulation(overlap=True)
    expected = continuation([1, 2], 4)
    simulation.submit([1, 2], max_tokens=50, stop=frozenset([expected[-1]]))
    rows = 0
    while simulation.scheduler.has_work:
        plan = simulation.step()
        rows += 0 if plan is None else plan.num_rows
    simulation.run()
    assert rows == 4 + 1
    assert simulation.delivered[0] == expected
    assert simulation.finished[0].reason is FinishReason.STOP
    assert simulation.scheduler.counters.generated_tokens == 4


def test_whose_grammar_needs_the_token_first_keeps_the_pace_of_the_others() -> None:
    simulation = Simulation(overlap=True)
    simulation.submit([1], max_tokens=4)
    simulation.requests[0].grammar = Alternating(VOCAB_SIZE)
    simulation.submit([2], max_tokens=9)
    rows = [0, 0]
    while simulation.scheduler.has_work:
        plan = simulation.step()
        for row in plan.rows() if plan else ():
            is_constrained = row.slot == simulation.requests[0].slot
            rows[0 if is_constrained else 1] += 1
        if plan and simulation.scheduler.num_running == 2:
            assert plan.num_rows == 2
            assert len(plan.constrained) == 1
    assert rows == [4, 9]
    assert simulation.runner.constrained == dict.fromkeys(range(4), 1)
    assert len(simulation.delivered[0]) == 4
    assert alternates(simulation.delivered[0])
    assert simulation.delivered[1] == continuation([2], 9)


def test_who_gave_way_with_a_token_on_its_way_still_gets_it() -> None:
    simulation = Simulation(overlap=True)
    simulation.submit([1, 2], max_tokens=9)
    simulation.step()
    simulation.step()
    simulation.scheduler.hold(0)
    simulation.step()
    assert len(simulation.delivered[0]) == 2
    simulation.scheduler.resume(0)
    simulation.run()
    assert simulation.delivered[0] == continuation([1, 2], 9)


def test_the_steps_behind_one_that_failed_are_computed_again() -> None:
    simulation = Simulation(overlap=True)
    simulation.submit([1, 2])
    simulation.step()
    simulation.submit([3, 4])
    simulation.fail_next_step()
    simulation.step()
    simulation.run()
    assert simulation.finished[0].reason is FinishReason.ERROR
    assert simulation.delivered[0] == []
    assert simulation.delivered[1] == continuation([3, 4], 8)
