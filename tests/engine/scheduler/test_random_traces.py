"""Whatever comes when, and whatever is set aside, cancelled, preempted, evicted or lost: every request gets
its tokens exactly once, and nothing is left behind."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.hash_runner import continuation
from tests.engine.scheduler.simulation import Simulation
from tokenwire_engine.scheduler.request import FinishReason

STEPS = 60
"""Everything happens before one of so many steps; then the rest is served."""


@dataclass(frozen=True)
class Arrival:
    """A request, and what becomes of it. Steps are those before which something happens."""

    step: int
    prompt_len: int
    max_tokens: int
    cancelled_at: int | None
    num_resumed: int
    family: int
    """Which beginning it shares with others; its tenant, too."""
    priority: int
    timeout_s: int | None
    """A step takes a second."""
    stops_after: int | None
    """The place in its first sample's output of a token that ends all of its samples."""
    num_samples: int


@dataclass(frozen=True)
class Hold:
    """A channel that is set aside for a while."""

    channel: int
    begins_at: int
    ends_at: int


steps = st.integers(0, STEPS)
arrivals = st.builds(
    Arrival,
    step=steps,
    prompt_len=st.integers(1, 40),
    max_tokens=st.integers(1, 30),
    cancelled_at=st.none() | steps,
    num_resumed=st.integers(0, 5),
    family=st.integers(0, 2),
    priority=st.integers(-2, 2),
    timeout_s=st.none() | st.integers(1, 80),
    stops_after=st.none() | st.integers(0, 20),
    num_samples=st.sampled_from([1, 1, 1, 2, 5]),
)
holds = st.builds(Hold, channel=st.integers(0, 2), begins_at=steps, ends_at=steps)


@settings(max_examples=250, deadline=None)
@given(
    trace=st.lists(arrivals, min_size=1, max_size=25),
    num_blocks=st.integers(6, 30),
    max_running=st.integers(1, 8),
    max_step_tokens=st.integers(1, 40),
    block_size=st.sampled_from([8, 16]),
    holds=st.lists(holds, max_size=4),
    policy=st.sampled_from(["fcfs", "priority", "fair"]),
    prefix_cache=st.booleans(),
    overlap=st.booleans(),
    windows=st.sampled_from([(0,), (0,), (5,), (16,), (33,), (0, 5), (0, 33), (0, 0, 16), (33, 20, 5)]),
    num_host_blocks=st.sampled_from([0, 3, 40]),
    resets=st.sets(steps, max_size=2),
    failures=st.sets(steps, max_size=2),
)
def test_every_request_gets_its_tokens_exactly_once_and_leaves_nothing_behind(
    trace: list[Arrival],
    num_blocks: int,
    max_running: int,
    max_step_tokens: int,
    block_size: int,
    holds: list[Hold],
    policy: str,
    prefix_cache: bool,
    overlap: bool,
    windows: tuple[int, ...],
    num_host_blocks: int,
    resets: set[int],
    failures: set[int],
) -> None:
    simulation = Simulation(
        num_blocks,
        max_running,
        max_step_tokens,
        256,
        block_size,
        policy,
        prefix_cache,
        overlap,
        windows,
        num_host_blocks,
    )
    expected: dict[int, dict[int, list[int]]] = {}
    cancels: dict[int, list[int]] = {}
    for step in range(STEPS + 1):
        for index, arrival in enumerate(trace):
            if arrival.step == step and arrival.prompt_len + 5 < simulation.scheduler.context_limit:
                number, tokens = submit(simulation, arrival, index)
                expected[number] = tokens
                if arrival.cancelled_at is not None:
                    cancels.setdefault(max(arrival.cancelled_at, step), []).append(number)
        for number in cancels.get(step, ()):
            simulation.scheduler.cancel(str(number))
        for hold in holds:
            if hold.begins_at == step:
                simulation.scheduler.hold(hold.channel)
            if hold.ends_at == step:
                simulation.scheduler.resume(hold.channel)
        if step in resets:
            simulation.scheduler.reset_prefix_cache()
        if step in failures:
            simulation.fail_next_step()
        tables = [
            (request, request.tables, [list(table.blocks) for table in request.tables])
            for request in simulation.requests
        ]
        simulation.step()
        simulation.check()
        for request, held, before in tables:
            if request.tables is held:  # else it gave way, and has new ones
                for table, blocks in zip(held, before, strict=True):
                    assert table.blocks[: len(blocks)] == blocks, "a table changed other than at its end"
    for channel in range(3):
        simulation.scheduler.resume(channel)
    simulation.run()
    for number, samples in expected.items():
        reason = simulation.finished[number].reason
        is_whole = reason in (FinishReason.LENGTH, FinishReason.STOP)
        assert is_whole or reason is not FinishReason.ERROR or failures
        for sample, tokens in samples.items():
            delivered = simulation.samples[number][sample]
            assert delivered == (tokens if simulation.is_whole(number, sample) else tokens[: len(delivered)])


def submit(simulation: Simulation, arrival: Arrival, index: int) -> tuple[int, dict[int, list[int]]]:
    """Submit a request; its number, and by sample the tokens that are to be delivered."""
    num_common = arrival.prompt_len * 3 // 4
    prompt = [arrival.family] * num_common + [index] * (arrival.prompt_len - num_common)
    num_resumed = arrival.num_resumed if arrival.num_samples == 1 else 0
    room = simulation.scheduler.context_limit - len(prompt)
    length = max(min(arrival.max_tokens, room), num_resumed)
    samples = {sample: continuation(prompt, length, sample) for sample in range(arrival.num_samples)}
    resumed = samples[0][:num_resumed]
    stops: frozenset[int] = frozenset()
    if arrival.stops_after is not None and num_resumed <= arrival.stops_after < length:
        stops = frozenset([samples[0][arrival.stops_after]])
    number = simulation.submit(
        prompt,
        arrival.max_tokens,
        tuple(resumed),
        stops.difference(resumed),
        priority=arrival.priority,
        tenant=str(arrival.family),
        timeout_s=arrival.timeout_s,
        num_samples=arrival.num_samples,
    )
    stops = stops.difference(resumed)
    expected = {}
    for sample, tokens in samples.items():
        end = next((place for place, token in enumerate(tokens) if token in stops), len(tokens))
        expected[sample] = tokens[num_resumed : end + 1]
    return number, expected


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
