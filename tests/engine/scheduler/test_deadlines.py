"""Requests end when their time is up, wherever they are."""

from __future__ import annotations

from tests.engine.hash_runner import continuation
from tests.engine.scheduler.simulation import Simulation
from tokenwire_engine.scheduler.request import FinishReason


def test_a_running_request_ends_when_its_time_is_up_and_keeps_its_tokens() -> None:
    simulation = Simulation()
    simulation.submit([1], max_tokens=50, timeout_s=10)
    simulation.run()
    assert simulation.finished[0].reason is FinishReason.EXPIRED
    assert simulation.delivered[0] == continuation([1], 10)
    assert "time was up after 10 of at most 50 tokens" in simulation.finished[0].error


def test_a_queued_request_ends_when_its_time_is_up() -> None:
    simulation = Simulation(max_running=1)
    simulation.submit([1], max_tokens=50)
    simulation.submit([2], timeout_s=3)
    simulation.run()
    assert simulation.finished[1].reason is FinishReason.EXPIRED
    assert simulation.delivered[1] == []
    assert simulation.delivered[0] == continuation([1], 50)


def test_a_request_that_ended_in_time_does_not_expire_later() -> None:
    simulation = Simulation()
    for _ in range(200):
        simulation.submit([1], max_tokens=2, timeout_s=50)
        simulation.run()
    assert {finished.reason for finished in simulation.finished.values()} == {FinishReason.LENGTH}
