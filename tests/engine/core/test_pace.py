"""When a message is due, by how long steps take."""

from __future__ import annotations

from tokenwire_engine.core.pace import HURRIED_STEPS, MOST_STEPS, Pace


def message_steps(interval_s: float, step_s: float, count: int) -> list[int]:
    """Of so many steps as long as each other, those behind which a message goes out."""
    pace, sent = Pace(interval_s), []
    for step in range(count):
        now = step * step_s
        pace.step_done(step_s)
        if pace.is_due(now):
            pace.sent(now)
            sent.append(step)
    return sent


def test_without_an_interval_every_step_has_a_message() -> None:
    assert message_steps(0.0, 0.003, 4) == [0, 1, 2, 3]


def test_messages_of_short_steps_come_as_close_to_the_interval_as_they_can() -> None:
    assert message_steps(0.02, 0.005, 9) == [0, 4, 8]
    assert message_steps(0.02, 0.006, 9) == [0, 3, 6]
    assert message_steps(0.02, 0.009, 6) == [0, 2, 4]


def test_steps_that_come_nearer_to_the_interval_than_to_half_of_it_have_one_each() -> None:
    assert message_steps(0.02, 0.014, 4) == [0, 1, 2, 3]
    assert message_steps(0.02, 0.1, 3) == [0, 1, 2]


def test_however_short_steps_are_a_message_has_few() -> None:
    assert message_steps(0.02, 0.0001, 10) == [0, MOST_STEPS, 2 * MOST_STEPS]


def test_steps_behind_something_urgent_have_a_message_each() -> None:
    pace = Pace(1.0)
    pace.hurry()
    pace.sent(0.0)
    for _ in range(HURRIED_STEPS):
        pace.step_done(0.001)
        assert pace.is_due(0.0)
        pace.sent(0.0)
    pace.step_done(0.001)
    assert not pace.is_due(0.0)
