"""How long streams waited, told by the columns that their tokens arrive in."""

from __future__ import annotations

import pytest

from tokenwire_services.gateway.latencies import Latencies
from tokenwire_services.gateway.metrics import Metrics


def value(metrics: Metrics, name: str) -> float:
    found = metrics.registry.get_sample_value(name)
    assert found is not None
    return found


FIRST, BETWEEN = "tokenwire_time_to_first_token_seconds", "tokenwire_inter_token_latency_seconds"


def test_a_stream_waits_for_its_first_token_and_then_between_deltas() -> None:
    metrics = Metrics()
    latencies = Latencies(metrics)
    latencies.begin(0, 1.0)
    latencies.begin(1, 2.0)
    latencies.arrived([0], 3.0)
    latencies.arrived([1, 0], 5.0)
    assert value(metrics, f"{FIRST}_count") == 2
    assert value(metrics, f"{FIRST}_sum") == pytest.approx(2.0 + 3.0)
    latencies.arrived([0, 1], 5.5)
    assert value(metrics, f"{BETWEEN}_count") == 3
    assert value(metrics, f"{BETWEEN}_sum") == pytest.approx(2.0 + 0.5 + 0.5)


def test_tokens_of_a_stream_that_has_ended_are_passed_over() -> None:
    metrics = Metrics()
    latencies = Latencies(metrics)
    latencies.begin(0, 1.0)
    latencies.begin(1, 1.0)
    latencies.arrived([0, 1], 2.0)
    latencies.end(1)
    latencies.arrived([0, 1], 3.0)
    latencies.arrived([1], 4.0)
    latencies.arrived([0, 1], 5.0)
    assert value(metrics, f"{FIRST}_count") == 2
    assert value(metrics, f"{BETWEEN}_count") == 2
    assert value(metrics, f"{BETWEEN}_sum") == pytest.approx(1.0 + 2.0)
