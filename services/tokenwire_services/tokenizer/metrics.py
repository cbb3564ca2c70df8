"""What the tokenizer service counts: the one place that names its metrics.

The counts are plain numbers of the engines' links and sessions, put together when somebody asks for them, on
a thread of their own.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tokenwire_services.tokenizer.engines import Engines

PREFIX = "tokenwire_tokenizer_"


def metrics_of(engines: Engines) -> CollectorRegistry:
    """The metrics of one process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_EnginesCollector(engines))
    return registry


class _EnginesCollector(Collector):
    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        up = _gauge("engine_up", "Whether the engine answers, 1 or 0.")
        live = _gauge("requests_in_flight", "Requests at the engine, or on their way to it.")
        blocks = _gauge("engine_cached_blocks", "Blocks known to be in the engine's prefix cache.")
        requests = _counter("requests", "Requests that began at the engine.")
        prompt_tokens = _counter("prompt_tokens", "Tokens of their prompts.")
        tokens = _counter("generation_tokens", "Tokens received from the engine.")
        moved = _counter(
            "requests_moved",
            "Requests that went on at the engine, after another process of it or another engine.",
        )
        for link in self._engines.links:
            engine, counts = [link.address], link.counts
            up.add_metric(engine, float(link.is_connected))
            live.add_metric(engine, counts.num_live)
            blocks.add_metric(engine, len(link.blocks))
            requests.add_metric(engine, counts.num_requests)
            prompt_tokens.add_metric(engine, counts.num_prompt_tokens)
            tokens.add_metric(engine, counts.num_generated_tokens)
            moved.add_metric(engine, counts.num_moved)
        yield from (up, live, blocks, requests, prompt_tokens, tokens, moved)


def _gauge(name: str, meaning: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, meaning, labels=["engine"])


def _counter(name: str, meaning: str) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, meaning, labels=["engine"])
