"""Models whose layers, or some of them, see only a window of tokens."""

from __future__ import annotations

import pytest

from tests.engine.hash_runner import continuation
from tests.engine.scheduler.simulation import Simulation
from tokenwire_engine.kv_cache.prefix_node import PrefixChain


def test_blocks_out_of_sight_are_given_back_while_the_request_runs() -> None:
    simulation = Simulation(windows=(20,), prefix_cache=False)
    simulation.submit([1, 2, 3], max_tokens=120)
    most_held = 0
    while simulation.scheduler.has_work:
        simulation.step()
        simulation.check()
        most_held = max(most_held, simulation.pool.num_blocks - simulation.pool.num_free)
    assert most_held == 3
    assert simulation.delivered[0] == continuation([1, 2, 3], 120)


def test_a_long_prompt_holds_no_more_blocks_than_its_window_and_a_chunk_take() -> None:
    simulation = Simulation(windows=(0, 16), max_step_tokens=16, prefix_cache=False)
    simulation.submit([1] * 100, max_tokens=4)
    (request,) = simulation.requests
    held = []
    while simulation.scheduler.has_work:
        simulation.step()
        held.append([len(table.held) for table in request.tables])
    assert held[:7] == [[7, 1], [7, 2], [7, 2], [7, 2], [7, 2], [7, 2], [7, 2]]
    assert simulation.delivered[0] == continuation([1] * 100, 4)


@pytest.mark.parametrize(("windows", "num_blocks"), [((20,), 8), ((0, 20), 18)], ids=["all", "some"])
def test_a_beginning_is_found_as_long_as_all_of_it_that_is_seen_is_there(
    windows: tuple[int, ...], num_blocks: int
) -> None:
    simulation = Simulation(windows=windows, num_blocks=num_blocks, max_running=1)
    prompt = [7] * 100
    simulation.submit(prompt, max_tokens=2)
    simulation.run()
    # Takes what has rested longest: the windowed layers' first blocks, which went out of sight.
    simulation.submit([8] * 40, max_tokens=2)
    simulation.run()
    simulation.submit([*prompt, 9], max_tokens=3)
    simulation.run()
    assert simulation.finished[2].cached_prompt_tokens == 96
    assert simulation.delivered[2] == continuation([*prompt, 9], 3)


def test_samples_begin_with_what_their_prompt_still_sees() -> None:
    simulation = Simulation(windows=(20,))
    prompt = list(range(60))
    simulation.submit(prompt, max_tokens=30, num_samples=3)
    simulation.run()
    assert simulation.samples[0] == {sample: continuation(prompt, 30, sample) for sample in range(3)}
    assert simulation.scheduler.counters.prompt_tokens == 62


def test_windowed_layers_give_back_blocks_while_those_that_see_all_keep_theirs() -> None:
    simulation = Simulation(windows=(0, 20), prefix_cache=False)
    simulation.submit([1, 2, 3], max_tokens=120)
    (request,) = simulation.requests
    most_held = 0
    while simulation.scheduler.has_work:
        simulation.step()
        simulation.check()
        full, windowed = request.tables
        assert len(full.held) == len(full.blocks) == len(windowed.blocks)
        most_held = max(most_held, len(windowed.held))
    assert most_held == 3
    assert simulation.delivered[0] == continuation([1, 2, 3], 120)


def test_a_block_that_windowed_layers_gave_back_serves_layers_that_see_all() -> None:
    simulation = Simulation(windows=(0, 16), num_blocks=14, max_step_tokens=32, prefix_cache=False)
    simulation.submit([1] * 10, max_tokens=200)
    simulation.run()
    assert simulation.scheduler.counters.preemptions == 0
    assert simulation.delivered[0] == continuation([1] * 10, 9 * 16 - 10)


def test_a_beginning_whose_window_is_gone_is_not_found() -> None:
    simulation = Simulation(windows=(0, 20))
    prompt = [7] * 160
    simulation.submit(prompt, max_tokens=2)
    simulation.run()
    cache = simulation.prefix_cache
    assert cache is not None
    chain = PrefixChain()
    cache.follow(chain, lambda start, end: prompt[start:end], 10)
    assert len(chain.nodes) == 10
    # What a request that branches off in the middle needs is the first that the pool takes back.
    windowed = [node.contents[1] for node in chain.nodes]
    assert all(content.is_present for content in windowed)
    while all(content.is_present for content in windowed[3:5]):
        simulation.pool.allocate(1)
    assert chain.nodes[4].is_present
    branch = PrefixChain()
    cache.follow(branch, lambda start, end: prompt[start:end], 5)
    assert len(branch.nodes) == 0
    cache.follow(chain, lambda start, end: prompt[start:end], 10)
    assert len(chain.nodes) == 10


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("windows", [(20,), (0, 20)])
def test_a_prompt_is_found_as_far_as_it_is_shared_though_its_window_has_moved_on(
    windows: tuple[int, ...], overlap: bool
) -> None:
    simulation = Simulation(windows=windows, overlap=overlap, max_step_tokens=32)
    common = list(range(10, 74))
    for number in (1, 2):
        simulation.submit([*common, *[number] * 60], max_tokens=2)
        simulation.run()
    assert simulation.finished[1].cached_prompt_tokens == 64
    assert simulation.delivered[1] == continuation([*common, *[2] * 60], 2)


@pytest.mark.parametrize("windows", [(20,), (0, 20)])
def test_a_long_prompt_is_found_though_its_beginning_went_out_of_sight_first(
    windows: tuple[int, ...],
) -> None:
    simulation = Simulation(windows=windows, overlap=True, max_step_tokens=32)
    prompt = [5] * 150
    simulation.submit(prompt, max_tokens=2)
    simulation.run()
    simulation.submit(prompt, max_tokens=2)
    simulation.run()
    assert simulation.finished[1].cached_prompt_tokens == 144
    assert simulation.delivered[1] == continuation(prompt, 2)
