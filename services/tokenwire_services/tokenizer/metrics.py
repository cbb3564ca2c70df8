"""What the tokenizer service counts: the one place that names its metrics, and the port they are served on.

The counts are plain numbers of the engine's link and session, put together when somebody asks for them, on
a thread of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tokenwire_services.tokenizer.engine_link import EngineLink

PREFIX = "tokenwire_tokenizer_"


@contextmanager
def serving_metrics(link: EngineLink, host: str, port: int) -> Iterator[int]:
    """Serve the metrics on a thread of their own; the port, a free one for 0.

    Raises:
        OSError: when the address cannot be listened on.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_LinkCollector(link))
    server, thread = start_http_server(port, host, registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _LinkCollector(Collector):
    def __init__(self, link: EngineLink) -> None:
        self._link = link

    def collect(self) -> Iterator[Metric]:
        engine_up = GaugeMetricFamily(
            PREFIX + "engine_up", "Whether the engine answers, 1 or 0.", labels=["engine"]
        )
        engine_up.add_metric([self._link.address], float(self._link.is_connected))
        yield engine_up
        counts = self._link.counts
        yield GaugeMetricFamily(
            PREFIX + "requests_in_flight", "Requests at the engine, or on their way to it.", counts.num_live
        )
        yield CounterMetricFamily(PREFIX + "requests", "Requests sent to an engine.", counts.num_requests)
        yield CounterMetricFamily(
            PREFIX + "prompt_tokens", "Tokens of their prompts.", counts.num_prompt_tokens
        )
        yield CounterMetricFamily(
            PREFIX + "generation_tokens", "Tokens received from an engine.", counts.num_generated_tokens
        )
        yield CounterMetricFamily(
            PREFIX + "requests_moved", "Requests that another engine process went on with.", counts.num_moved
        )
