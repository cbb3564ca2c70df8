"""Stop strings are found wherever the text is cut, and nothing is held back for longer than needed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenwire_services.tokenizer.stop_strings import StopStrings, overlap

LETTERS = st.text(alphabet="ab\n", max_size=12)
STOPS = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=5), min_size=1, max_size=4)


def joined_then_found(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """The definition: character by character, until the text ends with a stop string."""
    for end in range(1, len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            stop = max(ended, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


@given(pieces=st.lists(LETTERS, max_size=8), stops=STOPS, include=st.booleans())
def test_pieces_give_what_the_joined_text_gives(pieces: list[str], stops: list[str], include: bool) -> None:
    watch = StopStrings(stops, include)
    output = ""
    for piece in pieces:
        output += watch.push(piece)
        if watch.matched is not None:
            break
    else:
        output += watch.flush()

    assert (output, watch.matched) == joined_then_found("".join(pieces), stops, include)


@given(pieces=st.lists(LETTERS, max_size=8), stops=STOPS)
def test_only_what_may_become_a_stop_string_is_held_back(pieces: list[str], stops: list[str]) -> None:
    watch = StopStrings(stops)
    given_out, seen = "", ""
    for piece in pieces:
        given_out += watch.push(piece)
        seen += piece
        if watch.matched is not None:
            break
        held = seen[len(given_out) :]
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


def test_a_stop_string_across_three_pieces_is_cut_off() -> None:
    watch = StopStrings(["STOP"])

    assert [watch.push(piece) for piece in ("one S", "TO", "P two")] == ["one ", "", ""]
    assert watch.matched == "STOP"


def test_a_stop_string_may_be_kept() -> None:
    assert StopStrings(["STOP"], include=True).push("one STOP two") == "one STOP"


def test_overlap_is_the_longest_proper_beginning() -> None:
    assert overlap("xab", "abab") == 2
    assert overlap("xaba", "abab") == 3
    assert overlap("abab", "abab") == 2  # all of it would be a match, not an overlap
    assert overlap("", "a") == 0


def test_a_string_that_was_passed_over_does_not_count_and_one_that_began_there_does() -> None:
    watcher = StopStrings(["stop", "op"])
    assert watcher.pass_over("a stop and st") == "a stop and "
    assert watcher.push("op it") == ""
    assert watcher.matched == "stop"
    watcher = StopStrings(["ab", "ababc"])
    assert watcher.pass_over("abab") == ""
    assert watcher.push("x") == "ababx"
    assert watcher.matched is None
