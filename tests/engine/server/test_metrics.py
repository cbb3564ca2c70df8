"""The engine's /metrics, and the port that it is served on."""

from __future__ import annotations

import asyncio
import socket
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.engine.hash_runner import HashRunner, model_info
from tests.engine.running import StartEngine
from tests.patience import PATIENCE_S
from tokenwire.v1.engine_pb2 import GenerateRequest
from tokenwire.v1.generation_pb2 import StopConditions
from tokenwire_engine.config import EngineConfig
from tokenwire_engine.server.server import EngineServer


async def scrape(port: int | None) -> dict[str, float]:
    """All samples, those with labels under their name and labels' values."""
    url = f"http://127.0.0.1:{port}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=PATIENCE_S).read().decode())
    return {
        "/".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_an_engine_serves_what_it_measures(start_engine: StartEngine) -> None:
    engine = await start_engine(metrics_port=0)
    request = GenerateRequest(prompt_token_ids=[1] * 100, stop=StopConditions(max_tokens=5))
    for _ in range(2):
        async for _ in engine.stub.Generate(request):
            pass
    samples = await scrape(engine.server.metrics_port)
    prefix = "tokenwire_engine_"
    assert samples[prefix + "model_info/uint32/uint32/hash-model"] == 1
    assert samples[prefix + "startup_seconds/warming up"] >= 0
    assert samples[prefix + "requests_finished_total/length"] == 2
    assert samples[prefix + "prompt_tokens_total"] == 200
    assert samples[prefix + "computed_prompt_tokens_total"] == 200 - 96
    assert samples[prefix + "generation_tokens_total"] == 10
    assert samples[prefix + "prefix_cache_query_tokens_total"] == 200
    assert samples[prefix + "prefix_cache_hit_tokens_total"] == 96
    assert samples[prefix + "time_to_first_token_seconds_count"] == 2
    assert samples[prefix + "inter_token_latency_seconds_bucket/+Inf"] == 8
    assert samples[prefix + "requests_running"] == samples[prefix + "kv_cache_usage_ratio"] == 0
    assert samples["process_cpu_seconds_total"] > 0


async def test_blocks_that_come_back_from_host_memory_are_counted(start_engine: StartEngine) -> None:
    runner = HashRunner(model_info(num_blocks=16, num_host_blocks=64))
    engine = await start_engine(runner, metrics_port=0)
    # The device has room for two such prompts; of the first one's six full blocks, it gave up the last three.
    for first in (1, 2, 3, 1):
        request = GenerateRequest(prompt_token_ids=[first] * 100, stop=StopConditions(max_tokens=5))
        async for _ in engine.stub.Generate(request):
            pass
    samples = await scrape(engine.server.metrics_port)
    assert samples["tokenwire_engine_host_cache_hit_blocks_total"] == 3


async def test_without_a_port_nothing_is_served_or_measured(start_engine: StartEngine) -> None:
    engine = await start_engine()
    assert engine.server.metrics_port is None


async def test_a_metrics_port_in_use_is_an_error_that_names_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = EngineServer(
            EngineConfig(port=0, metrics_port=port), lambda *_: HashRunner(), lambda *_: None
        )
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port} for metrics"):
            await server.start()
