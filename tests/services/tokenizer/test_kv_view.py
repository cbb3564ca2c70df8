"""What a service knows of an engine's prefix cache, and what it finds of a prompt there."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tokenwire.kv_hash import prefix_hashes
from tokenwire.v1 import engine_pb2
from tokenwire_services.tokenizer.engine_session import Counts
from tokenwire_services.tokenizer.kv_view import KvView, Prefix
from tokenwire_services.tokenizer.load_view import LoadView

Events = engine_pb2.WatchKvEventsResponse
tokens = st.lists(st.integers(0, 3), max_size=20)


def events(stored: Sequence[int] = (), removed: Sequence[int] = (), reset: bool = False) -> Events:
    blocks = [Events.StoredBlock(hash=block) for block in stored]
    return Events(stored=blocks, removed=removed, reset=reset)


def common(a: list[int], b: list[int]) -> int:
    """Tokens that two sequences begin with."""
    count = 0
    while count < min(len(a), len(b)) and a[count] == b[count]:
        count += 1
    return count


@given(st.lists(tokens, max_size=5), tokens, st.integers(1, 4))
def test_the_longest_prefix_in_whole_blocks_is_found(
    cached: list[list[int]], prompt: list[int], block_size: int
) -> None:
    view = KvView()
    for sequence in cached:
        view.apply(events(prefix_hashes(sequence, block_size)))
    longest = max((common(sequence, prompt) // block_size for sequence in cached), default=0)
    assert Prefix(prompt, "", "").tokens_in(view, block_size) == longest * block_size


def test_a_prefix_belongs_to_its_salt_and_its_adapter() -> None:
    view = KvView()
    view.apply(events(prefix_hashes([1, 2, 3, 4], 2, adapter="lora", cache_salt="tenant")))
    assert Prefix([1, 2, 3, 4], "lora", "tenant").tokens_in(view, 2) == 4
    assert Prefix([1, 2, 3, 4], "lora", "other").tokens_in(view, 2) == 0
    assert Prefix([1, 2, 3, 4], "", "tenant").tokens_in(view, 2) == 0


def test_what_is_removed_is_known_no_more_and_a_reset_forgets_everything() -> None:
    view = KvView()
    first, second = prefix_hashes([1, 2, 3, 4], 2)
    view.apply(events([first, second]))
    view.apply(events(removed=[second]))
    assert Prefix([1, 2, 3, 4], "", "").tokens_in(view, 2) == 2
    view.apply(events([second], reset=True))
    assert second in view
    assert first not in view


@given(st.lists(st.tuples(st.lists(st.integers(0, 99)), st.lists(st.integers(0, 99)), st.booleans())))
def test_a_view_never_exceeds_its_bound(messages: list[tuple[list[int], list[int], bool]]) -> None:
    view = KvView(max_blocks=10)
    for stored, removed, reset in messages:
        view.apply(events(stored, removed, reset))
        assert len(view) <= 10


def test_of_an_engines_load_this_services_own_requests_are_counted_now_and_those_of_others_as_told() -> None:
    own = Counts(num_live=2)
    view = LoadView(own)
    view.apply(engine_pb2.GetLoadResponse(running_requests=5))
    assert view.now(max_running=8).requests == 5
    own.num_live = 9
    load = view.now(max_running=8)
    assert (load.requests, load.waiting) == (12, 4)
    own.num_live = 0
    assert view.now(max_running=8).requests == 3
