"""What is sent again, and what is not."""

from __future__ import annotations

import pytest

from tokenwire.duplex.commands import Commands


def commands_of(*names: str) -> Commands[str]:
    commands = Commands[str]()
    for name in names:
        commands.add(name)
    return commands


def take_all(commands: Commands[str]) -> str:
    """The names of what there is to send over this stream, in a row."""
    return "".join(iter(commands.take, None))


def test_each_is_taken_once_a_stream() -> None:
    commands = commands_of("a", "b")
    assert take_all(commands) == "ab"
    commands.add("c")
    assert take_all(commands) == "c"
    commands.begin_stream(0)
    assert take_all(commands) == "abc"


def test_what_the_peer_has_is_not_sent_again() -> None:
    commands = commands_of("a", "b", "c", "d")
    commands.take()
    commands.count(1)
    assert commands.take() == "b"
    commands.begin_stream(2)
    assert take_all(commands) == "cd"


def test_what_the_peer_has_from_the_last_stream_is_not_sent_over_this_one() -> None:
    commands = commands_of("a", "b", "c")
    commands.begin_stream(1)
    commands.count(2)
    assert take_all(commands) == "c"


def test_what_an_older_message_counts_changes_nothing() -> None:
    commands = commands_of("a", "b", "c")
    commands.begin_stream(2)
    commands.count(1)
    assert take_all(commands) == "c"


def test_what_is_forgotten_is_not_sent_again() -> None:
    commands = commands_of("a", "b")
    commands.take()
    commands.forget_taken()
    assert take_all(commands) == "b"
    commands.forget_taken()
    commands.begin_stream(2)
    assert take_all(commands) == ""


def test_a_peer_cannot_have_more_than_there_are() -> None:
    commands = commands_of("a", "b")
    with pytest.raises(ValueError, match="3 commands were counted of 2"):
        commands.count(3)
    assert take_all(commands) == "ab"
