"""What a request need not compute, because another has."""

from __future__ import annotations

from tests.engine.hash_runner import continuation
from tests.engine.scheduler.simulation import Simulation
from tokenwire_engine.scheduler.plan import StepResult

COMMON = list(range(100, 148))
"""Three blocks."""


def test_a_second_request_computes_only_what_the_first_did_not() -> None:
    simulation = Simulation()
    simulation.submit([*COMMON, 1], max_tokens=2)
    simulation.run()
    simulation.submit([*COMMON, 2, 3], max_tokens=2)
    plan = simulation.step()
    assert plan is not None
    row = plan.rows()[0]
    assert (row.start, row.token_ids, len(row.new_blocks[0])) == (48, [2, 3], 4)
    simulation.run()
    assert simulation.delivered[1] == continuation([*COMMON, 2, 3], 2)
    assert [simulation.finished[number].cached_prompt_tokens for number in (0, 1)] == [0, 48]
    counters = simulation.scheduler.counters
    assert (counters.prefix_query_tokens, counters.prefix_hit_tokens) == (49 + 50, 48)
    assert counters.prompt_tokens == 49 + 2


def test_of_a_prompt_that_is_cached_whole_the_last_block_is_computed() -> None:
    simulation = Simulation()
    for _ in range(2):
        simulation.submit(COMMON, max_tokens=3)
        simulation.run()
    assert simulation.finished[1].cached_prompt_tokens == 32
    assert simulation.delivered[1] == continuation(COMMON, 3)


def test_running_requests_share_their_common_blocks() -> None:
    simulation = Simulation(num_blocks=12, max_running=4)
    simulation.submit([*COMMON, 0], max_tokens=12)
    simulation.step()
    for number in (1, 2, 3):
        simulation.submit([*COMMON, number], max_tokens=12)
    simulation.step()
    assert simulation.scheduler.num_running == 4
    assert simulation.pool.num_free == 12 - 3 - 4
    assert simulation.pool.holders(simulation.requests[0].tables[0].blocks[0]) == 4
    simulation.run()
    for number in range(4):
        assert simulation.delivered[number] == continuation([*COMMON, number], 12)


def test_the_output_of_a_turn_is_the_beginning_of_the_next() -> None:
    simulation = Simulation()
    simulation.submit([1] * 20, max_tokens=30)
    simulation.run()
    simulation.submit([1] * 20 + simulation.delivered[0] + [2], max_tokens=1)
    simulation.run()
    assert simulation.finished[1].cached_prompt_tokens == 48


def test_a_request_that_gave_way_goes_on_from_its_blocks() -> None:
    simulation = Simulation(num_blocks=12)
    older = simulation.submit([1] * 65, max_tokens=60)
    younger = simulation.submit([2] * 65, max_tokens=60)
    while not simulation.scheduler.counters.preemptions:
        simulation.step()
    simulation.scheduler.cancel(str(older))
    computed = simulation.scheduler.counters.prompt_tokens
    plan = simulation.step()
    assert plan is not None
    assert plan.rows()[0].start >= 64
    simulation.run()
    assert simulation.scheduler.counters.prompt_tokens - computed <= 1
    assert simulation.delivered[younger] == continuation([2] * 65, 60)
    assert simulation.finished[younger].cached_prompt_tokens == 0


def test_what_a_failed_step_computed_is_not_found() -> None:
    simulation = Simulation()
    simulation.submit(COMMON)
    assert simulation.scheduler.plan() is not None
    simulation.scheduler.fail("the device hiccuped")
    assert simulation.scheduler.num_cached_blocks == 0
    assert simulation.pool.num_free == simulation.pool.num_blocks


def test_what_a_request_left_before_its_step_was_done_is_not_found() -> None:
    simulation = Simulation()
    simulation.submit(COMMON)
    plan = simulation.scheduler.plan()
    assert plan is not None
    simulation.scheduler.cancel("0")
    simulation.scheduler.complete(StepResult(plan.step, [0], [99]))
    assert simulation.scheduler.num_cached_blocks == 0


def test_another_salt_finds_nothing() -> None:
    simulation = Simulation()
    for salt in ("a", "b", "a"):
        simulation.submit(COMMON, salt=salt)
        simulation.run()
    assert [simulation.finished[number].cached_prompt_tokens for number in range(3)] == [0, 0, 32]


def test_a_reset_while_requests_run_loses_none_of_their_tokens() -> None:
    simulation = Simulation()
    simulation.submit([*COMMON, 1], max_tokens=60)
    for _ in range(5):
        simulation.step()
    assert simulation.scheduler.reset_prefix_cache() == 3
    simulation.submit([*COMMON, 1], max_tokens=5)
    simulation.run()
    assert simulation.finished[1].cached_prompt_tokens == 0
    assert simulation.delivered[0] == continuation([*COMMON, 1], 60)


def test_without_a_cache_everything_is_computed() -> None:
    simulation = Simulation(prefix_cache=False)
    for _ in range(2):
        simulation.submit(COMMON)
        simulation.run()
    assert simulation.finished[1].cached_prompt_tokens == 0
    assert simulation.scheduler.counters.prompt_tokens == 96
    assert simulation.scheduler.reset_prefix_cache() == simulation.scheduler.num_cached_blocks == 0


def test_a_request_whose_prompt_is_to_be_scored_computes_all_of_it() -> None:
    simulation = Simulation()
    simulation.submit(COMMON)
    simulation.run()
    request = simulation.requests[simulation.submit(COMMON)]
    request.num_prompt_logprobs = 0
    plan = simulation.scheduler.plan()
    assert plan is not None
    assert (plan.rows()[0].start, len(plan.rows()[0].token_ids)) == (0, len(COMMON))
