from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.hash_runner import continuation
from tests.engine.scheduler.simulation import Simulation
from tokenwire_engine.scheduler.request import FinishReason

REQUEST = st.tuples(
    st.integers(1, 40),  # tokens of the prompt
    st.integers(1, 30),  # max_tokens
    st.integers(0, 60),  # the step before which it arrives
    st.one_of(st.none(), st.integers(0, 60)),  # the step before which it is cancelled
    st.integers(0, 5),  # tokens resumed
    st.integers(0, 2),  # which beginning it shares with others
    st.integers(-2, 2),  # priority
    st.one_of(st.none(), st.integers(1, 80)),  # timeout in steps
)


HOLD = st.tuples(
    st.integers(0, 2),  # the channel
    st.integers(0, 60),  # the step before which it is put on hold
    st.integers(0, 60),  # the step before which it goes on
)


@settings(max_examples=150, deadline=None)
@given(
    trace=st.lists(REQUEST, min_size=1, max_size=25),
    num_blocks=st.integers(6, 30),
    max_running=st.integers(1, 8),
    max_step_tokens=st.integers(1, 40),
    block_size=st.sampled_from([8, 16]),
    holds=st.lists(HOLD, max_size=4),
    policy=st.sampled_from(["fcfs", "priority", "fair"]),
    prefix_cache=st.booleans(),
    resets=st.sets(st.integers(0, 60), max_size=2),
)
def test_every_request_gets_its_tokens_exactly_once_and_leaves_nothing_behind(
    trace: list[tuple[int, int, int, int | None, int, int, int, int | None]],
    num_blocks: int,
    max_running: int,
    max_step_tokens: int,
    block_size: int,
    holds: list[tuple[int, int, int]],
    policy: str,
    prefix_cache: bool,
    resets: set[int],
) -> None:
    simulation = Simulation(num_blocks, max_running, max_step_tokens, 256, block_size, policy, prefix_cache)
    limit = simulation.scheduler.context_limit
    expected: dict[int, list[int]] = {}
    cancels: dict[int, list[int]] = {}
    for step in range(61):
        for index, row in enumerate(trace):
            prompt_len, max_tokens, arrival, cancel, num_resumed, family, priority, timeout = row
            if arrival != step or prompt_len + num_resumed >= limit:
                continue
            prompt = [family] * (prompt_len * 3 // 4) + [index] * (prompt_len - prompt_len * 3 // 4)
            whole = continuation(prompt, max(min(max_tokens, limit - prompt_len), num_resumed))
            number = simulation.submit(
                prompt,
                max_tokens,
                tuple(whole[:num_resumed]),
                priority=priority,
                tenant=str(family),
                timeout_s=timeout,
            )
            expected[number] = whole[num_resumed:]
            if cancel is not None:
                cancels.setdefault(max(cancel, arrival), []).append(number)
        for number in cancels.get(step, ()):
            simulation.scheduler.cancel(str(number))
        for channel, begin, end in holds:
            if begin == step:
                simulation.scheduler.hold(channel)
            if end == step:
                simulation.scheduler.resume(channel)
        if step in resets:
            simulation.scheduler.reset_prefix_cache()
        tables = [(request, list(request.table.blocks), request.slot) for request in simulation.requests]
        simulation.step()
        simulation.check()
        for request, blocks, slot in tables:
            if request.slot == slot:
                assert request.table.blocks[: len(blocks)] == blocks, "a table changed other than at its end"
    for channel in range(3):
        simulation.scheduler.resume(channel)
    simulation.run()
    for number, tokens in expected.items():
        finished = simulation.finished[number]
        if finished.reason in (FinishReason.CANCELLED, FinishReason.EXPIRED):
            assert simulation.delivered[number] == tokens[: len(simulation.delivered[number])]
        else:
            assert finished.reason is FinishReason.LENGTH
            assert simulation.delivered[number] == tokens


@pytest.mark.parametrize("policy", ["fcfs", "priority", "fair"])
def test_thousands_of_requests_over_a_small_pool_all_finish(policy: str) -> None:
    random_numbers = random.Random(0)
    simulation = Simulation(num_blocks=200, max_running=64, max_step_tokens=256, policy=policy)
    for _ in range(4_000):
        simulation.submit(
            [random_numbers.randrange(1000)] * random_numbers.randint(1, 40),
            random_numbers.randint(1, 6),
            priority=random_numbers.randint(-5, 5),
            tenant=str(random_numbers.randrange(20)),
        )
    simulation.run()
    assert all(finished.reason is FinishReason.LENGTH for finished in simulation.finished.values())
