from __future__ import annotations

import asyncio

from tests.engine.server.conftest import Engine
from tokenwire.v1.engine_pb2 import GenerateRequest
from tokenwire.v1.generation_pb2 import StopConditions


async def test_an_idle_engine_has_all_blocks_free(engine: Engine) -> None:
    load = await engine.load()
    assert load.free_kv_blocks == load.total_kv_blocks == 64
    assert load.steps == load.running_requests == load.waiting_requests == load.sessions == 0


async def test_it_counts_what_was_computed(engine: Engine) -> None:
    request = GenerateRequest(prompt_token_ids=[1] * 100, stop=StopConditions(max_tokens=5))
    async for _ in engine.stub.Generate(request):
        pass
    load = await engine.load()
    assert (load.prompt_tokens, load.generated_tokens, load.finished_requests) == (100, 5, 1)
    assert load.steps == 6  # the prompt takes two


async def test_it_shows_what_runs_and_what_waits(engine: Engine) -> None:
    engine.runner.hold()
    calls = [engine.stub.Generate(GenerateRequest(prompt_token_ids=[1])) for _ in range(10)]
    await asyncio.sleep(0.1)
    engine.runner.allow(2)
    await engine.until(lambda load: (load.running_requests, load.waiting_requests) == (8, 2))
    for call in calls:
        call.cancel()
