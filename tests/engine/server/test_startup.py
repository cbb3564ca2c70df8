"""Where the time until readiness goes."""

from __future__ import annotations

from tokenwire_engine.server.startup import StartupClock


def test_phases_are_timed_and_passed_on() -> None:
    now = [10.0]
    passed: list[tuple[str, float | None]] = []
    startup = StartupClock(lambda phase, fraction=None: passed.append((phase, fraction)), lambda: now[0])
    for phase, fraction, seconds in [
        ("reading", 0.0, 1.5),
        ("reading", 0.5, 2.5),
        ("warming up", None, 0.25),
    ]:
        startup(phase, fraction)
        now[0] += seconds
    startup.finish()
    assert passed == [("reading", 0.0), ("reading", 0.5), ("warming up", None)]
    assert startup.seconds == {"reading": 4.0, "warming up": 0.25}
    assert startup.summary() == "ready after 4.2 s: reading 4.0 s, warming up 0.2 s"
