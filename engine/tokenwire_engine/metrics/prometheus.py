"""The engine's metrics for Prometheus: the one place that names them, and the port that they are served on.

They are put together when somebody asks for them, on a thread of their own; between two scrapes that thread
sleeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tokenwire.address import authority
from tokenwire_engine.core.load import Load
from tokenwire_engine.metrics.histogram import Histogram
from tokenwire_engine.metrics.recorder import Recorder
from tokenwire_engine.scheduler.request import FinishReason

PREFIX = "tokenwire_engine_"


class MetricsServer:
    """Serves a registry over HTTP, at any path, on a thread of its own.

    Attributes:
        port: where it listens.
    """

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        """Listen; port 0 chooses a free one.

        Raises:
            OSError: when the address cannot be listened on, naming it.
        """
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"cannot listen on {authority(host, port)} for metrics: {reason}") from error
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class EngineCollector(Collector):
    """What an engine's core measured, as Prometheus wants it."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._model: Mapping[str, str] | None = None
        self._load: Callable[[], Load] | None = None
        self._startup: Mapping[str, float] = {}

    def loaded(
        self, model: Mapping[str, str], load: Callable[[], Load], startup: Mapping[str, float]
    ) -> None:
        """A model is served: what it is, how busy the engine is with it, and how long its start's phases
        took."""
        self._model, self._load, self._startup = model, load, startup

    def collect(self) -> Iterator[Metric]:
        """All metrics; none before a model is served."""
        if self._model is None or self._load is None:
            return
        yield InfoMetricFamily(PREFIX + "model", "What is served.", dict(self._model))
        phases = GaugeMetricFamily(
            PREFIX + "startup_seconds", "How long each phase of the start took.", labels=["phase"]
        )
        for phase, seconds in self._startup.items():
            phases.add_metric([phase], seconds)
        yield phases
        yield from _of_load(self._load())
        yield from _of_requests(self._recorder)


def make_registry(collector: EngineCollector) -> CollectorRegistry:
    """The engine's metrics and those of its process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(collector)
    return registry


def _of_load(load: Load) -> Iterator[Metric]:
    used = load.total_kv_blocks - load.free_kv_blocks
    yield _gauge("requests_running", "Requests being computed.", load.running_requests)
    yield _gauge("requests_waiting", "Requests queued.", load.waiting_requests)
    yield _gauge(
        "kv_cache_usage_ratio",
        "KV cache blocks that requests hold, from 0 to 1.",
        used / load.total_kv_blocks,
    )
    yield _gauge("kv_cache_blocks", "KV cache blocks in all.", load.total_kv_blocks)
    yield _gauge("kv_cache_cached_blocks", "Blocks that the prefix cache can find.", load.cached_kv_blocks)
    yield _counter("steps", "Steps computed.", load.steps)
    yield _counter("generation_tokens", "Tokens generated.", load.generated_tokens)
    yield _counter(
        "computed_prompt_tokens",
        "Prompt tokens computed: not those found in the prefix cache, and again those lost to a preemption.",
        load.prompt_tokens,
    )
    yield _counter("preemptions", "Requests that had to give way to others.", load.preemptions)
    yield _counter(
        "prefix_cache_query_tokens", "Tokens looked for in the prefix cache.", load.prefix_query_tokens
    )
    yield _counter("prefix_cache_hit_tokens", "Tokens found in the prefix cache.", load.prefix_hit_tokens)
    yield _counter("host_cache_hit_blocks", "Blocks of them that host memory had.", load.host_hit_blocks)


def _of_requests(recorder: Recorder) -> Iterator[Metric]:
    yield _counter(
        "prompt_tokens",
        "Prompt tokens of requests that got their first token, cached ones included.",
        recorder.prompt_tokens,
    )
    finished = CounterMetricFamily(PREFIX + "requests_finished", "Requests that ended.", labels=["reason"])
    for reason in FinishReason:
        finished.add_metric([reason.name.lower()], recorder.num_finished[reason])
    yield finished
    for name, documentation, histogram in (
        (
            "time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            recorder.time_to_first_token,
        ),
        (
            "inter_token_latency_seconds",
            "Between two tokens of a request that follow each other.",
            recorder.inter_token_latency,
        ),
        ("request_queue_time_seconds", "From arrival to the first step.", recorder.queue_time),
        ("request_prefill_time_seconds", "From the first step to the first token.", recorder.prefill_time),
        ("request_decode_time_seconds", "From the first token to the last.", recorder.decode_time),
        ("request_inference_time_seconds", "From the first step to the last token.", recorder.inference_time),
        ("e2e_request_latency_seconds", "From arrival to the end.", recorder.e2e_latency),
        ("request_prompt_tokens", "Prompt tokens of a request.", recorder.request_prompt_tokens),
        ("request_generation_tokens", "Tokens generated of a request.", recorder.request_generation_tokens),
        ("step_requests", "Requests computed in a step: the batch's size.", recorder.step_requests),
        ("step_tokens", "Tokens computed in a step, of prompts and output.", recorder.step_tokens),
    ):
        yield _histogram(name, documentation, histogram)


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, documentation, value)


def _counter(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, documentation, value)


def _histogram(name: str, documentation: str, histogram: Histogram) -> Metric:
    names = [*map(str, histogram.bounds), "+Inf"]
    buckets = list(zip(names, map(float, accumulate(histogram.counts.copy())), strict=True))
    return HistogramMetricFamily(PREFIX + name, documentation, buckets=buckets, sum_value=histogram.sum)
