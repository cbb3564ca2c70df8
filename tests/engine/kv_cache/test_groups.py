"""Which layers share a block table, and how much memory stays empty for that."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenwire_engine.kv_cache.groups import MAX_GROUPS, group_layers, longest_sequence, most_blocks


def test_layers_that_see_the_same_are_one_group() -> None:
    (group,) = group_layers([0] * 32)
    assert (group.window, group.layers) == (0, tuple(range(32)))
    (group,) = group_layers([4096] * 32)
    assert (group.window, group.layers) == (4096, tuple(range(32)))


def test_half_of_the_layers_with_a_window_make_two_groups() -> None:
    groups = group_layers([128, 0] * 12)
    assert [group.window for group in groups] == [0, 128]
    assert [group.layers for group in groups] == [tuple(range(1, 24, 2)), tuple(range(0, 24, 2))]


def test_a_window_on_the_upper_layers_splits_the_lower_ones_into_groups_of_the_same_size() -> None:
    groups = group_layers([0] * 21 + [4096] * 7)
    assert [(group.window, len(group.layers)) for group in groups] == [(0, 7)] * 3 + [(4096, 7)]


def test_where_no_size_fits_well_a_little_stays_empty_rather_than_having_many_groups() -> None:
    groups = group_layers(([1024] * 5 + [0]) * 10 + [1024] * 2)
    assert [(group.window, len(group.layers)) for group in groups] == [(0, 10)] + [(1024, 13)] * 4


@given(windows=st.lists(st.sampled_from([0, 0, 8, 20]), min_size=1, max_size=80))
def test_every_layer_is_in_one_group_of_its_own_window(windows: list[int]) -> None:
    groups = group_layers(windows)
    assert sorted(layer for group in groups for layer in group.layers) == list(range(len(windows)))
    assert all(windows[layer] == group.window for group in groups for layer in group.layers)
    sights = [group.window or float("inf") for group in groups]
    assert sights == sorted(sights, reverse=True)
    assert len(groups) <= MAX_GROUPS
    assert len(groups) * max(len(group.layers) for group in groups) < 2 * len(windows) + len(set(windows))


def test_a_sequence_holds_all_of_its_blocks_but_no_more_of_a_window_than_a_step_needs() -> None:
    windows, block_size, step_tokens = (0, 20), 16, 32
    # The window's 19 tokens before a step and the 32 of the step lie in at most 5 blocks.
    assert most_blocks(1600, windows, block_size, step_tokens) == 100 + 5
    assert most_blocks(40, windows, block_size, step_tokens) == 3 + 3
    assert longest_sequence(105, windows, block_size, step_tokens, most=4000) == 1600
    assert longest_sequence(105, windows, block_size, step_tokens, most=900) == 900
    assert longest_sequence(5, (20,), block_size, step_tokens, most=4000) == 4000
    assert longest_sequence(4, (20,), block_size, step_tokens, most=4000) == 64
