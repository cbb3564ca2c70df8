"""What the gateway counts: the one place that names metrics, and the middleware that counts HTTP requests.

What happens per token is counted per tokenizer message: one addition for all of its tokens, one observation
for all streams that waited equally long.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import HistogramMetricFamily
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
        self.requests = Counter(
            "tokenwire_http_requests",
            "HTTP requests answered.",
            ("endpoint", "status"),
            registry=self.registry,
        )
        self.requests_in_flight = Gauge(
            "tokenwire_http_requests_in_flight", "HTTP requests being answered.", registry=self.registry
        )
        self.request_duration = Histogram(
            "tokenwire_http_request_duration_seconds",
            "From an HTTP request's headers to the end of its response.",
            ("endpoint",),
            buckets=_SECONDS_IN_ALL,
            registry=self.registry,
        )
        self.time_to_first_token = Histogram(
            "tokenwire_time_to_first_token_seconds",
            "From a prompt's submission to its first token.",
            buckets=_SECONDS_TO_FIRST,
            registry=self.registry,
        )
        self.inter_token_latency = WeightedHistogram(
            "tokenwire_inter_token_latency_seconds",
            "Between two deltas of a stream.",
            _SECONDS_BETWEEN,
        )
        self.registry.register(self.inter_token_latency)
        self.prompt_tokens = Counter(
            "tokenwire_prompt_tokens", "Prompt tokens of finished requests.", registry=self.registry
        )
        self.generation_tokens = Counter(
            "tokenwire_generation_tokens", "Tokens generated.", registry=self.registry
        )

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class WeightedHistogram(Collector):
    """A histogram that takes many equal observations at once."""

    def __init__(self, name: str, documentation: str, bounds: tuple[float, ...]) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, count: int) -> None:
        """Count a value `count` times."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The histogram as Prometheus wants it: cumulative."""
        names = [*map(str, self._bounds), "+Inf"]
        buckets = list(zip(names, map(float, accumulate(self._counts)), strict=True))
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum)


class MeasureRequests:
    """Counts and times HTTP requests by endpoint, which is the route's pattern."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        metrics = self._metrics
        status = 500
        begin = time.monotonic()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        metrics.requests_in_flight.inc()
        try:
            await self._app(scope, receive, watch)
        finally:
            metrics.requests_in_flight.dec()
            endpoint = getattr(scope.get("route"), "path", "other")
            metrics.requests.labels(endpoint, str(status)).inc()
            metrics.request_duration.labels(endpoint).observe(time.monotonic() - begin)
