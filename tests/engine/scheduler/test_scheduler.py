"""From requests to plans: what each step computes, who waits, and how requests end."""

from __future__ import annotations

import pytest

from tests.engine.hash_runner import continuation
from tests.engine.scheduler.simulation import Simulation
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.plan import StepPlan, StepResult
from tokenwire_engine.scheduler.request import FinishReason, Request


def rows(plan: StepPlan | None) -> list[tuple[int, int, int]]:
    """(slot, start, number of tokens) of each row."""
    assert plan is not None
    return [(row.slot, row.start, len(row.token_ids)) for row in plan.rows()]


def test_nothing_to_do_is_no_plan() -> None:
    assert Simulation().scheduler.plan() is None


def test_a_short_prompt_is_one_row_and_each_token_after_it_another() -> None:
    simulation = Simulation()
    simulation.submit([1, 2, 3], max_tokens=3)
    assert [rows(simulation.step()) for _ in range(3)] == [[(0, 0, 3)], [(0, 3, 1)], [(0, 4, 1)]]
    assert simulation.step() is None
    assert simulation.delivered[0] == continuation([1, 2, 3], 3)


def test_while_the_same_requests_decode_plans_differ_only_in_their_shift() -> None:
    simulation = Simulation()
    simulation.submit([1, 2, 3])
    simulation.submit([4])
    simulation.step()
    first, second = simulation.step(), simulation.step()
    assert first is not None
    assert second is not None
    assert second.decodes.slots is first.decodes.slots
    assert second.decodes.bases is first.decodes.bases
    assert second.decodes.shift == first.decodes.shift + 1
    assert rows(second) == [(0, 4, 1), (1, 2, 1)]
    simulation.submit([5])
    simulation.step()
    third = simulation.step()
    assert rows(third) == [(0, 6, 1), (1, 4, 1), (2, 1, 1)]


def test_blocks_are_added_where_they_begin_and_to_nobody_else() -> None:
    simulation = Simulation(block_size=8)
    for length in (7, 6, 15):
        simulation.submit([length] * length, max_tokens=20)
    simulation.step()
    growing = []
    for _ in range(10):
        plan = simulation.step()
        assert plan is not None
        growing.append([simulation.requests[slot].label for slot in plan.decodes.growing])
        assert [len(blocks) for blocks in plan.decodes.new_blocks] == [len(plan.decodes.growing)]
    assert growing == [[], [0, 2], [1], [], [], [], [], [], [], [0, 2]]


def test_a_long_prompt_is_computed_in_chunks_of_what_the_decodes_leave() -> None:
    simulation = Simulation(max_step_tokens=32)
    simulation.submit([1, 2, 3], max_tokens=100)
    simulation.step()
    simulation.submit(list(range(100)))
    chunks = [rows(simulation.step()) for _ in range(4)]
    assert chunks == [
        [(0, 3, 1), (1, 0, 31)],
        [(0, 4, 1), (1, 31, 31)],
        [(0, 5, 1), (1, 62, 31)],
        [(0, 6, 1), (1, 93, 7)],
    ]
    assert len(simulation.delivered[0]) == 5  # a token in every step, whatever the other's prompt
    assert len(simulation.delivered[1]) == 1


def test_requests_are_admitted_in_order_of_arrival() -> None:
    simulation = Simulation(max_running=2)
    for _ in range(4):
        simulation.submit([1], max_tokens=2)
    simulation.run()
    assert list(simulation.finished) == [0, 1, 2, 3]


def test_a_full_batch_queues() -> None:
    simulation = Simulation(max_running=2)
    for _ in range(5):
        simulation.submit([1], max_tokens=4)
    simulation.step()
    assert (simulation.scheduler.num_running, simulation.scheduler.num_waiting) == (2, 3)
    simulation.run()


def test_a_prompt_that_does_not_fit_now_waits_and_nobody_overtakes_it() -> None:
    simulation = Simulation(num_blocks=4)
    simulation.submit([1] * 30, max_tokens=20)
    simulation.submit([2] * 40, max_tokens=2)
    simulation.submit([3], max_tokens=1)
    simulation.step()
    assert simulation.scheduler.num_waiting == 2
    simulation.run()
    assert list(simulation.finished) == [0, 1, 2]


def test_the_youngest_gives_way_and_goes_on_where_it_was() -> None:
    simulation = Simulation(num_blocks=4)
    simulation.submit([1] * 15, max_tokens=40)
    simulation.submit([2] * 15, max_tokens=40)
    simulation.run()
    assert simulation.scheduler.counters.preemptions > 0
    assert list(simulation.finished) == [0, 1]
    assert simulation.delivered[0] == continuation([1] * 15, 40)
    assert simulation.delivered[1] == continuation([2] * 15, 40)


def test_a_request_that_gave_way_is_ahead_of_those_that_arrived_after_it() -> None:
    simulation = Simulation(num_blocks=4, max_running=2)
    simulation.submit([1] * 15, max_tokens=40)
    simulation.submit([2] * 15, max_tokens=40)
    simulation.submit([3], max_tokens=50)
    simulation.run()
    assert simulation.scheduler.counters.preemptions > 0
    assert list(simulation.finished) == [0, 1, 2]


def test_a_request_may_give_way_in_the_middle_of_its_prompt() -> None:
    simulation = Simulation(num_blocks=5, max_step_tokens=2)
    simulation.submit([1], max_tokens=50)
    simulation.submit([2] * 48, max_tokens=2)
    while not simulation.scheduler.counters.preemptions:
        simulation.step()
    assert simulation.delivered[1] == []
    assert (simulation.scheduler.num_running, simulation.scheduler.num_waiting) == (1, 1)
    simulation.run()
    assert simulation.delivered[0] == continuation([1], 50)
    assert simulation.delivered[1] == continuation([2] * 48, 2)


def test_there_are_no_more_requests_in_a_step_than_tokens() -> None:
    simulation = Simulation(max_running=8, max_step_tokens=2)
    for number in range(4):
        simulation.submit([number] * 5, max_tokens=3)
    simulation.step()
    simulation.step()
    simulation.step()
    assert simulation.scheduler.num_running <= 2
    simulation.run()
    for number in range(4):
        assert simulation.delivered[number] == continuation([number] * 5, 3)


def test_resumed_tokens_are_known_tokens() -> None:
    simulation = Simulation()
    whole = continuation([1, 2], 6)
    simulation.submit([1, 2], max_tokens=6, output=tuple(whole[:4]))
    plan = simulation.step()
    assert rows(plan) == [(0, 0, 6)]
    assert plan is not None
    assert plan.admitted[0].output_token_ids == whole[:4]
    simulation.run()
    assert simulation.delivered[0] == whole[4:]
    assert simulation.finished[0].completion_tokens == 6


def test_a_stop_token_ends_a_request_and_says_which() -> None:
    simulation = Simulation()
    expected = continuation([1, 2], 3)
    simulation.submit([1, 2], max_tokens=6, stop=frozenset(expected[-1:]))
    simulation.run()
    assert simulation.delivered[0] == expected
    assert simulation.finished[0].reason is FinishReason.STOP
    assert simulation.finished[0].stop_token_id == expected[-1]


def test_the_context_ends_a_request() -> None:
    simulation = Simulation(max_model_len=20)
    simulation.submit([1, 2], max_tokens=100)
    simulation.run()
    assert len(simulation.delivered[0]) == 18
    assert simulation.finished[0].reason is FinishReason.LENGTH


def test_a_pool_smaller_than_the_context_ends_a_request_when_it_is_full() -> None:
    simulation = Simulation(num_blocks=2, max_model_len=256)
    simulation.submit([1, 2], max_tokens=100)
    simulation.run()
    assert len(simulation.delivered[0]) == 30
    assert simulation.finished[0].reason is FinishReason.LENGTH


def test_a_request_that_could_never_fit_is_refused_with_the_numbers() -> None:
    simulation = Simulation(num_blocks=2)
    with pytest.raises(ValueError, match=r"has 32 tokens .* holds 32 \(.* 2 blocks of 16 tokens\)"):
        simulation.submit([1] * 32)


def test_an_id_in_use_is_refused() -> None:
    simulation = Simulation()
    simulation.submit([1])
    with pytest.raises(ValueError, match="'0' is in use"):
        simulation.scheduler.submit(simulation.requests[0])


def test_cancelling_frees_what_a_request_holds_in_any_state() -> None:
    simulation = Simulation(max_running=1)
    running, waiting = simulation.submit([1] * 20, 50), simulation.submit([2] * 20, 50)
    simulation.step()
    simulation.scheduler.cancel(str(waiting))
    simulation.scheduler.cancel(str(running))
    simulation.scheduler.cancel(str(running))
    simulation.scheduler.cancel("never heard of")
    simulation.take_outputs()
    assert simulation.finished[running].reason is FinishReason.CANCELLED
    assert simulation.finished[waiting].reason is FinishReason.CANCELLED
    assert simulation.pool.num_free == simulation.pool.num_blocks
    assert simulation.scheduler.plan() is None


def test_a_released_slot_is_told_with_the_next_plan_and_may_be_taken_in_it() -> None:
    simulation = Simulation(max_running=1)
    simulation.submit([1], max_tokens=1)
    simulation.submit([2], max_tokens=1)
    simulation.step()
    plan = simulation.step()
    assert plan is not None
    assert (plan.released, [admission.slot for admission in plan.admitted]) == ([0], [0])


def test_a_request_cancelled_while_its_step_runs_gets_no_token() -> None:
    simulation = Simulation()
    simulation.submit([1])
    plan = simulation.scheduler.plan()
    assert plan is not None
    simulation.scheduler.cancel("0")
    simulation.scheduler.complete(StepResult(plan.step, [0], [99]))
    simulation.take_outputs()
    assert simulation.delivered[0] == []
    assert simulation.finished[0].completion_tokens == 0


def test_a_failed_step_ends_its_requests_and_only_those() -> None:
    simulation = Simulation(max_step_tokens=4)
    for number in range(3):
        simulation.submit([number] * 3, max_tokens=2)
    assert simulation.scheduler.plan() is not None  # computes the first, and a part of the second
    simulation.scheduler.fail("the device hiccuped")
    simulation.runner.fail_next = RuntimeError()
    simulation.take_outputs()
    assert {n: f.error for n, f in simulation.finished.items()} == dict.fromkeys(
        (0, 1), "the device hiccuped"
    )
    simulation.check()
    plan = simulation.scheduler.plan()
    assert plan is not None
    assert sorted(plan.released) == [0, 1]
    assert plan.num_rows == 1


def test_a_result_of_another_step_is_refused() -> None:
    simulation = Simulation()
    simulation.submit([1])
    assert simulation.scheduler.plan() is not None
    with pytest.raises(ValueError, match="expected step 0 with 1"):
        simulation.scheduler.complete(StepResult(7, [], []))


def test_a_channel_on_hold_takes_no_part_until_it_goes_on_ahead_of_the_queue() -> None:
    simulation = Simulation(max_running=1)
    first = simulation.submit([1], max_tokens=8)  # channel 0
    simulation.step()
    simulation.submit([2], max_tokens=100)  # channel 1
    simulation.submit([3], max_tokens=100)  # channel 2
    late = simulation.submit([4], max_tokens=8)  # channel 0 again
    simulation.scheduler.hold(0)
    for _ in range(5):
        simulation.step()
    assert [len(tokens) for tokens in simulation.delivered] == [1, 5, 0, 0]
    assert simulation.scheduler.num_waiting == 3

    simulation.scheduler.resume(0)
    simulation.run()
    assert list(simulation.finished) == [1, first, late, 2]
    assert simulation.delivered[first] == continuation([1], 8)


def test_with_every_channel_on_hold_there_is_nothing_to_do() -> None:
    simulation = Simulation()
    simulation.submit([1])
    simulation.step()
    simulation.scheduler.hold(0)
    simulation.submit([2])
    simulation.scheduler.hold(1)
    assert simulation.step() is None
    assert not simulation.scheduler.has_work
    assert simulation.pool.num_free == simulation.pool.num_blocks


def test_a_request_on_hold_can_be_cancelled_and_its_id_is_taken_until_then() -> None:
    simulation = Simulation()
    held = simulation.submit([1])
    simulation.scheduler.hold(0)
    with pytest.raises(ValueError, match="'0' is in use"):
        simulation.scheduler.submit(simulation.requests[held])
    simulation.scheduler.cancel(str(held))
    simulation.take_outputs()
    assert simulation.finished[held].reason is FinishReason.CANCELLED


def test_a_prompt_is_scored_in_its_chunks_and_never_again() -> None:
    request = Request("0", list(range(10)), SamplingParams(), 5, num_prompt_logprobs=2)
    assert request.needs_all_prompt_logits
    first = request.scored_prompt(0, 6)
    assert first is not None
    assert (first.start, first.token_ids, first.num_top) == (0, [1, 2, 3, 4, 5, 6], 2)
    request.num_prompt_scored = 6
    assert request.scored_prompt(0, 6) is None  # computed again after a preemption
    last = request.scored_prompt(3, 10)
    assert last is not None
    assert (last.start, last.token_ids) == (6, [7, 8, 9])
    request.num_prompt_scored = 9
    assert not request.needs_all_prompt_logits
    assert request.scored_prompt(9, 10) is None


def test_a_prompt_of_one_token_has_nothing_to_score() -> None:
    request = Request("0", [1], SamplingParams(), 5, num_prompt_logprobs=2)
    assert not request.needs_all_prompt_logits
    assert request.scored_prompt(0, 1) is None
