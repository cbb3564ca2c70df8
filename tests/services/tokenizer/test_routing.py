"""Which engine a request goes to, as a function of what is known of the engines."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_services.tokenizer.routing import RUNNING_COST, WAITING_COST, Candidate, Load, choose

loads = st.builds(Load, st.integers(0, 300), st.integers(0, 100), st.integers(0, 10_000))
candidates = st.lists(st.builds(Candidate, st.integers(0, 4096), loads), min_size=1, max_size=8)


@given(st.lists(st.integers(0, 4096), min_size=1, max_size=8), loads)
def test_of_engines_that_are_equally_busy_the_one_with_the_longest_prefix_is_chosen(
    cached: list[int], load: Load
) -> None:
    assert cached[choose([Candidate(tokens, load) for tokens in cached])] == max(cached)


@given(st.integers(0, 4096), st.lists(st.integers(0, 300), min_size=1, max_size=8))
def test_of_engines_that_hold_as_much_the_least_busy_one_is_chosen(
    cached_tokens: int, requests: list[int]
) -> None:
    chosen = choose([Candidate(cached_tokens, Load(number)) for number in requests])
    assert requests[chosen] == min(requests)


@given(candidates)
def test_a_prefix_is_followed_unless_its_engine_is_busier_than_the_prefix_is_worth(
    engines: list[Candidate],
) -> None:
    chosen = engines[choose(engines)]
    for other in engines:
        busier = RUNNING_COST * (chosen.load.requests - other.load.requests)
        busier += WAITING_COST * (chosen.load.waiting - other.load.waiting)
        assert busier <= chosen.cached_tokens - other.cached_tokens


@given(candidates, st.integers(1, 4096), st.integers(0, 10))
def test_what_is_chosen_stays_chosen_when_it_holds_more_or_has_less_to_do(
    engines: list[Candidate], more: int, ended: int
) -> None:
    chosen = choose(engines)
    best = engines[chosen]
    load = dataclasses.replace(best.load, requests=max(0, best.load.requests - ended))
    engines[chosen] = Candidate(best.cached_tokens + more, load)
    assert choose(engines) == chosen


@given(st.integers(1, 8), st.integers(0, 200))
def test_a_burst_of_unlike_requests_is_spread_evenly(num_engines: int, num_requests: int) -> None:
    sent = [0] * num_engines
    for _ in range(num_requests):
        sent[choose([Candidate(0, Load(requests=number, sent=number)) for number in sent])] += 1
    assert max(sent) - min(sent) <= 1


def test_requests_that_come_one_after_another_take_turns() -> None:
    assert choose([Candidate(0, Load(sent=3)), Candidate(0, Load(sent=2))]) == 1


def test_there_must_be_an_engine() -> None:
    with pytest.raises(ValueError, match="no engine"):
        choose([])
