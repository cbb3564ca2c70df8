"""Models all of whose layers see only a window of tokens."""

from __future__ import annotations

from tests.engine.hash_runner import continuation
from tests.engine.scheduler.simulation import Simulation


def test_blocks_out_of_sight_are_given_back_while_the_request_runs() -> None:
    simulation = Simulation(window=20, prefix_cache=False)
    simulation.submit([1, 2, 3], max_tokens=120)
    most_held = 0
    while simulation.scheduler.has_work:
        simulation.step()
        simulation.check()
        most_held = max(most_held, simulation.pool.num_blocks - simulation.pool.num_free)
    assert most_held == 3
    assert simulation.delivered[0] == continuation([1, 2, 3], 120)


def test_a_long_prompt_gives_back_blocks_from_chunk_to_chunk() -> None:
    simulation = Simulation(window=16, max_step_tokens=16, prefix_cache=False)
    simulation.submit([1] * 100, max_tokens=4)
    held = []
    while simulation.scheduler.has_work:
        simulation.step()
        held.append(simulation.pool.num_blocks - simulation.pool.num_free)
    assert held[:6] == [7, 7, 6, 5, 4, 3]


def test_a_beginning_is_found_as_long_as_its_last_window_is_there() -> None:
    simulation = Simulation(window=20, num_blocks=8, max_running=1)
    prompt = [7] * 100
    simulation.submit(prompt, max_tokens=2)
    simulation.run()
    # Takes the blocks that have rested longest: the first ones of the prompt, which went out of sight.
    simulation.submit([8] * 40, max_tokens=2)
    simulation.run()
    simulation.submit([*prompt, 9], max_tokens=3)
    simulation.run()
    assert simulation.finished[2].cached_prompt_tokens == 96
    assert simulation.delivered[2] == continuation([*prompt, 9], 3)


def test_samples_begin_with_what_their_prompt_still_sees() -> None:
    simulation = Simulation(window=20)
    prompt = list(range(60))
    simulation.submit(prompt, max_tokens=30, num_samples=3)
    simulation.run()
    assert simulation.samples[0] == {sample: continuation(prompt, 30, sample) for sample in range(3)}
    assert simulation.scheduler.counters.prompt_tokens == 62
