"""What the gateway counts: the one place that names metrics, and the middleware that counts HTTP requests.

What happens per token is counted per tokenizer message: one addition for all of its tokens, one observation
for all streams that waited equally long. All is counted on the event loop, so that a count is a plain number;
any thread may ask for it.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS_TO_FIRST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SECONDS_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5)
_SECONDS_IN_ALL = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Metrics:
    """The metrics of one gateway process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.http_requests = HttpRequests()
        self.time_to_first_token = WeightedHistogram(
            "tokenwire_time_to_first_token_seconds",
            "From a prompt's submission to its first token.",
            _SECONDS_TO_FIRST,
        )
        self.inter_token_latency = WeightedHistogram(
            "tokenwire_inter_token_latency_seconds",
            "Between two deltas of a stream.",
            _SECONDS_BETWEEN,
        )
        self.prompt_tokens = Total("tokenwire_prompt_tokens", "Prompt tokens of finished requests.")
        self.generation_tokens = Total("tokenwire_generation_tokens", "Tokens generated.")
        for collector in (
            self.http_requests,
            self.time_to_first_token,
            self.inter_token_latency,
            self.prompt_tokens,
            self.generation_tokens,
        ):
            self.registry.register(collector)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class Total(Collector):
    """A counter without labels."""

    def __init__(self, name: str, documentation: str) -> None:
        self._name = name
        self._documentation = documentation
        self._value = 0

    def inc(self, amount: int) -> None:
        """Count so many more."""
        self._value += amount

    def collect(self) -> Iterator[Metric]:
        """The counter as Prometheus wants it."""
        yield CounterMetricFamily(self._name, self._documentation, value=self._value)


class Observations:
    """Values by the buckets of a histogram that they fall into."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float, count: int) -> None:
        """Count a value `count` times."""
        self._counts[bisect_left(self._bounds, value)] += count
        self.sum += value * count

    def buckets(self) -> list[tuple[str, float]]:
        """How many are in each bucket, as Prometheus wants it: cumulative."""
        names = [*map(str, self._bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self._counts)), strict=True))


class WeightedHistogram(Collector):
    """A histogram that takes many equal observations at once."""

    def __init__(self, name: str, documentation: str, bounds: tuple[float, ...]) -> None:
        self._name = name
        self._documentation = documentation
        self._observations = Observations(bounds)

    def observe(self, value: float, count: int) -> None:
        """Count a value `count` times."""
        self._observations.add(value, count)

    def collect(self) -> Iterator[Metric]:
        """The histogram as Prometheus wants it."""
        seen = self._observations
        yield HistogramMetricFamily(
            self._name, self._documentation, buckets=seen.buckets(), sum_value=seen.sum
        )


class HttpRequests(Collector):
    """HTTP requests by endpoint and status, and how long they took.

    Attributes:
        num_in_flight: being answered.
    """

    def __init__(self) -> None:
        self.num_in_flight = 0
        self._answered = Counter[tuple[str, int]]()
        self._durations: dict[str, Observations] = {}

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Count one."""
        self._answered[endpoint, status] += 1
        if endpoint not in self._durations:
            self._durations[endpoint] = Observations(_SECONDS_IN_ALL)
        self._durations[endpoint].add(seconds, 1)

    def collect(self) -> Iterator[Metric]:
        """The metrics as Prometheus wants them."""
        name = "tokenwire_http_requests"
        answered = CounterMetricFamily(name, "HTTP requests answered.", labels=["endpoint", "status"])
        for (endpoint, status), count in list(self._answered.items()):
            answered.add_metric([endpoint, str(status)], count)
        duration = HistogramMetricFamily(
            "tokenwire_http_request_duration_seconds",
            "From an HTTP request's headers to the end of its response.",
            labels=["endpoint"],
        )
        for endpoint, seen in list(self._durations.items()):
            duration.add_metric([endpoint], buckets=seen.buckets(), sum_value=seen.sum)
        in_flight = GaugeMetricFamily(
            f"{name}_in_flight", "HTTP requests being answered.", value=self.num_in_flight
        )
        yield from (answered, in_flight, duration)


class MeasureRequests:
    """Counts and times HTTP requests by endpoint, which is the route's pattern."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        requests = self._metrics.http_requests
        status = 500
        begin = time.monotonic()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        requests.num_in_flight += 1
        try:
            await self._app(scope, receive, watch)
        finally:
            requests.num_in_flight -= 1
            endpoint = getattr(scope.get("route"), "path", "other")
            requests.answered(endpoint, status, time.monotonic() - begin)
