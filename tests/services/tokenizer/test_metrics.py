"""The tokenizer service's /metrics."""

from __future__ import annotations

import asyncio
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.patience import PATIENCE_S, until
from tests.ports import free_ports
from tests.services.tokenizer.conftest import start_service
from tests.services.tokenizer.fake_engine import FakeEngine
from tokenwire.v1 import tokenizer_pb2


async def scrape(port: int) -> dict[str, float]:
    url = f"http://127.0.0.1:{port}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=PATIENCE_S).read().decode())
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_the_service_counts_requests_and_tokens_and_knows_whether_its_engine_is_there(
    engine: FakeEngine,
) -> None:
    (port,) = free_ports(1)
    prefix = "tokenwire_tokenizer_"
    async for service in start_service(engine, metrics_port=port):
        request = tokenizer_pb2.TokenizerGenerateRequest(text="The weather")
        async for _ in service.stub.Generate(request):
            pass
        samples = await scrape(port)
        assert samples[prefix + "engine_up"] == 1
        assert samples[prefix + "requests_total"] == 1
        assert samples[prefix + "requests_in_flight"] == 0
        assert samples[prefix + "prompt_tokens_total"] == len(engine.requests[0].prompt_token_ids)
        assert samples[prefix + "generation_tokens_total"] == len(engine.reply(engine.requests[0]))
        await engine.stop()

        async def is_lost() -> bool:
            return not (await scrape(port))[prefix + "engine_up"]

        await until(is_lost)
