"""Blocks that are evicted to host memory, and come back."""

from __future__ import annotations

from tests.engine.hash_runner import continuation
from tests.engine.scheduler.simulation import Simulation

PROMPT = list(range(100, 164))
"""Four blocks."""


def evict(simulation: Simulation, first: int) -> None:
    """Let other requests take every block."""
    simulation.submit([first] * (16 * simulation.pool.num_blocks - 3), max_tokens=2)
    simulation.run()


def test_what_is_evicted_comes_back_on_a_hit() -> None:
    simulation = Simulation(num_blocks=8, num_host_blocks=20)
    simulation.submit(PROMPT, max_tokens=2)
    simulation.run()
    evict(simulation, 1)
    simulation.submit([*PROMPT, 5], max_tokens=4)
    simulation.run()
    assert simulation.finished[2].cached_prompt_tokens == 64
    assert simulation.scheduler.counters.host_hit_blocks == 4
    assert simulation.delivered[2] == continuation([*PROMPT, 5], 4)


def test_in_host_memory_too_the_deepest_block_of_what_rested_longest_goes_first() -> None:
    simulation = Simulation(num_blocks=8, num_host_blocks=7)
    simulation.submit(PROMPT, max_tokens=2)
    simulation.run()
    evict(simulation, 1)
    evict(simulation, 2)
    simulation.submit([*PROMPT, 5], max_tokens=4)
    simulation.run()
    assert simulation.finished[3].cached_prompt_tokens == 0
    simulation.submit([2] * 90, max_tokens=4)
    simulation.run()
    assert simulation.finished[4].cached_prompt_tokens == 80


def test_a_reset_forgets_what_is_in_host_memory() -> None:
    simulation = Simulation(num_blocks=8, num_host_blocks=20)
    simulation.submit(PROMPT, max_tokens=2)
    simulation.run()
    evict(simulation, 1)
    simulation.scheduler.reset_prefix_cache()
    assert simulation.host is not None
    assert simulation.host.num_used == 0
    simulation.submit(PROMPT, max_tokens=2)
    simulation.run()
    assert simulation.finished[2].cached_prompt_tokens == 0


def test_a_request_that_gave_way_gets_its_blocks_back_from_host_memory() -> None:
    def computed(num_host_blocks: int) -> int:
        simulation = Simulation(num_blocks=12, num_host_blocks=num_host_blocks)
        simulation.submit([1] * 65, max_tokens=100)
        simulation.submit([2] * 65, max_tokens=100)
        simulation.run()
        assert simulation.scheduler.counters.preemptions > 0
        assert simulation.delivered == [continuation([n] * 65, 100) for n in (1, 2)]
        return simulation.scheduler.counters.prefix_hit_tokens

    assert computed(num_host_blocks=16) > computed(num_host_blocks=0)
