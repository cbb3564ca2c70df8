"""GetLoad and WatchLoad: how busy the engine says it is."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from tests.engine.running import Engine, StartEngine
from tokenwire.v1.engine_pb2 import GenerateRequest, WatchLoadRequest
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
    await engine.step_until(lambda load: (load.running_requests, load.waiting_requests) == (8, 2))
    for call in calls:
        call.cancel()


async def test_it_measures_steps_and_rates(engine: Engine) -> None:
    request = GenerateRequest(prompt_token_ids=[1], stop=StopConditions(max_tokens=20))
    assert (await engine.load()).estimated_wait_ms == 0
    async for _ in engine.stub.Generate(request):
        pass
    load = await engine.load()
    assert load.step_time_us > 0
    assert load.tokens_per_second > 0


async def test_how_long_a_queue_will_take_is_unknown_until_something_has_finished(
    start_engine: StartEngine,
) -> None:
    engine = await start_engine(max_running=1)
    engine.runner.hold()
    calls = [
        engine.stub.Generate(GenerateRequest(prompt_token_ids=[1], stop=StopConditions(max_tokens=100)))
        for _ in range(4)
    ]
    await engine.step_until(lambda load: load.waiting_requests == 3)
    assert not (await engine.load()).HasField("estimated_wait_ms")
    await engine.step_until(lambda load: load.finished_requests == 1)
    assert (await engine.load()).estimated_wait_ms > 0
    engine.runner.resume()
    for call in calls:
        async for _ in call:
            pass


async def test_a_watcher_hears_of_changes_and_of_nothing_else(engine: Engine) -> None:
    watching = engine.stub.WatchLoad(WatchLoadRequest(interval_ms=10))
    first = await watching.read()
    assert first.load == await engine.load()
    following = asyncio.create_task(watching.read())
    await asyncio.sleep(0.1)
    assert not following.done()
    request = GenerateRequest(prompt_token_ids=[1], stop=StopConditions(max_tokens=2))
    async for _ in engine.stub.Generate(request):
        pass
    load = (await following).load
    while load.finished_requests == 0:
        load = (await watching.read()).load
    watching.cancel()


async def test_a_watcher_that_asks_too_often_is_refused(engine: Engine) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await engine.stub.WatchLoad(WatchLoadRequest(interval_ms=9)).read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
