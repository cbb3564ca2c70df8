"""Who is served first, and who gives way, under each policy."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.hash_runner import continuation
from tests.engine.scheduler.simulation import Simulation
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.fair import INPUT_WEIGHT, MOST_IDLE_TENANTS, OUTPUT_WEIGHT, FairShare
from tokenwire_engine.scheduler.priority import AGEING_S
from tokenwire_engine.scheduler.request import NO_SLOT, Request


def test_a_lower_priority_value_is_served_first() -> None:
    simulation = Simulation(max_running=1, policy="priority")
    for priority in (3, 1, 2, -1):
        simulation.submit([1], max_tokens=1, priority=priority)
    simulation.run()
    assert list(simulation.finished) == [3, 1, 2, 0]


def test_equal_priorities_are_served_in_order_of_arrival() -> None:
    simulation = Simulation(max_running=1, policy="priority")
    for _ in range(5):
        simulation.submit([1], max_tokens=1, priority=7)
    simulation.run()
    assert list(simulation.finished) == [0, 1, 2, 3, 4]


def test_waiting_makes_up_for_priority() -> None:
    simulation = Simulation(max_running=1, policy="priority")
    late = simulation.submit([1], max_tokens=1, priority=2)
    while late not in simulation.finished:
        simulation.submit([2], max_tokens=1, priority=0)
        simulation.step()
    assert 2 * AGEING_S <= simulation.now <= 2 * AGEING_S + 2


def test_the_request_of_least_priority_gives_way_even_if_it_is_the_oldest() -> None:
    simulation = Simulation(num_blocks=4, policy="priority")
    simulation.submit([1] * 15, max_tokens=40, priority=5)
    simulation.submit([2] * 15, max_tokens=40, priority=0)
    simulation.run()
    assert simulation.scheduler.counters.preemptions > 0
    assert list(simulation.finished) == [1, 0]
    assert simulation.delivered[0] == continuation([1] * 15, 40)


def test_a_waiting_request_that_is_cancelled_leaves_its_line() -> None:
    for policy in ("fcfs", "priority", "fair"):
        simulation = Simulation(max_running=1, policy=policy)
        numbers = [simulation.submit([1], max_tokens=1, tenant=str(index % 2)) for index in range(6)]
        for number in (numbers[0], numbers[3], numbers[5]):
            simulation.scheduler.cancel(str(number))
        simulation.run()
        assert sorted(simulation.finished) == numbers


def test_requests_that_were_set_aside_take_their_place_in_the_policys_order() -> None:
    for policy in ("fcfs", "priority", "fair"):
        simulation = Simulation(max_running=1, policy=policy)
        for index in range(9):
            simulation.submit([index], max_tokens=3, tenant=str(index % 2), priority=index % 2)
        for step in range(12):
            simulation.scheduler.hold(step % 3)
            simulation.step()
            simulation.scheduler.resume(step % 3)
            simulation.check()
        simulation.run()
        assert simulation.delivered == [continuation([index], 3) for index in range(9)]


def test_a_tenant_with_many_requests_does_not_hold_up_one_with_few() -> None:
    simulation = Simulation(max_running=1, policy="fair")
    for _ in range(50):
        simulation.submit([1] * 4, max_tokens=4, tenant="many")
    few = [simulation.submit([2] * 4, max_tokens=4, tenant="few") for _ in range(2)]
    simulation.run()
    assert max(list(simulation.finished).index(number) for number in few) <= 3


def test_a_tenant_that_was_away_has_earned_no_credit() -> None:
    simulation = Simulation(max_running=1, policy="fair")
    for _ in range(40):
        simulation.submit([1] * 4, max_tokens=4, tenant="busy")
    while len(simulation.finished) < 20:
        simulation.step()
    late = [simulation.submit([2] * 4, max_tokens=4, tenant="late") for _ in range(20)]
    while len(simulation.finished) < 30:
        simulation.step()
    assert abs(len(set(late) & set(simulation.finished)) - 5) <= 1  # half of what came since


def test_the_counters_of_tenants_that_have_gone_are_forgotten() -> None:
    policy = FairShare()
    for number in range(5 * MOST_IDLE_TENANTS):
        request = Request(str(number), [1], SamplingParams(), 1, tenant=str(number), arrival=number)
        policy.add(request, ahead=False)
        policy.remove(request)
        policy.admitted(request, 1)
    assert len(policy.served) <= 2 * MOST_IDLE_TENANTS


LENGTHS = st.tuples(st.integers(1, 40), st.integers(1, 30))


@settings(max_examples=60, deadline=None)
@given(
    tenants=st.lists(st.lists(LENGTHS, min_size=1, max_size=12), min_size=2, max_size=4),
    num_blocks=st.integers(6, 20),
    max_running=st.integers(1, 6),
)
def test_no_tenant_that_waits_gets_further_behind_another_than_the_bound(
    tenants: list[list[tuple[int, int]]], num_blocks: int, max_running: int
) -> None:
    simulation = Simulation(num_blocks, max_running, policy="fair", prefix_cache=False)
    limit = simulation.scheduler.context_limit
    for tenant, lengths in enumerate(tenants):
        for number, (prompt_len, max_tokens) in enumerate(lengths):
            simulation.submit(
                [tenant, number] * (min(prompt_len, limit - 2) // 2 + 1), max_tokens, tenant=str(tenant)
            )
    # Theorem 4.4 of the paper: twice the larger of a prompt and of what a full batch may have yielded.
    bound = 2 * max(INPUT_WEIGHT * 42, OUTPUT_WEIGHT * simulation.pool.num_tokens)
    policy = simulation.policy
    assert isinstance(policy, FairShare)
    while simulation.scheduler.has_work:
        waiting = {r.tenant for r in simulation.requests if r.slot == NO_SLOT and not r.has_ended}
        served = [policy.served[tenant] for tenant in waiting]
        assert not served or max(served) - min(served) <= bound
        simulation.step()
        simulation.check()
    simulation.run()


def test_an_urgent_request_does_not_wait_for_the_slot_of_one_that_is_not() -> None:
    simulation = Simulation(policy="priority", max_running=2)
    for _ in range(2):
        simulation.submit([1], max_tokens=50, priority=5)
    simulation.step()
    urgent = simulation.submit([2], max_tokens=3, priority=-1)
    equal = simulation.submit([3], max_tokens=3, priority=5)
    for _ in range(3):
        simulation.step()
    assert simulation.delivered[urgent] == continuation([2], 3)
    assert simulation.delivered[equal] == []
    assert simulation.scheduler.counters.preemptions == 1
    simulation.run()
    assert simulation.delivered[:2] == [continuation([1], 50)] * 2


def test_nobody_gives_way_to_a_request_that_would_not_fit_even_then() -> None:
    simulation = Simulation(policy="priority", num_blocks=10)
    simulation.submit([1] * 60, max_tokens=60, priority=0)
    simulation.submit([2] * 20, max_tokens=30, priority=5)
    simulation.step()
    simulation.submit([3] * 100, max_tokens=2, priority=4)
    simulation.step()
    assert simulation.scheduler.counters.preemptions == 0
    simulation.run()
