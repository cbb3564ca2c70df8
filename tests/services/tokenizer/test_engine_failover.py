"""A real engine behind the service: its connection is cut, or it dies and comes back; no stream notices."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.checkpoints import write_checkpoint
from tests.cut_proxy import cut_proxy, cut_proxy_of_sessions
from tests.engine.hash_runner import continuation
from tests.engine.running import Engine, StartEngine, connected, is_idle, start_server
from tests.patience import until
from tests.services.tokenizer.client import Request, generate, open_session, token_ids_of, token_request
from tests.services.tokenizer.conftest import Service, start_service
from tokenwire.v1.engine_pb2 import GetLoadRequest
from tokenwire_engine.runner.load import load_runner


async def test_twenty_cuts_during_sixty_four_streams_change_nothing(
    start_engine: StartEngine, engine_socket: str | None
) -> None:
    engine = await start_engine(max_running=64, session_socket=engine_socket)
    engine.runner.hold()
    async with cut_proxy_of_sessions(engine) as proxy:
        async for service in start_service(proxy):
            peer = await open_session(service)
            for slot in range(64):
                await peer.submit(slot, token_request([slot], 1000))
            ending = asyncio.create_task(peer.finish(64))
            async with engine.step_by_step():
                await proxy.cut_at_random(20)
            ends = await ending
            assert proxy.num_cut >= 20
            assert peer.token_ids() == {slot: continuation([slot], 1000) for slot in range(64)}
            assert all(end.usage.completion_tokens == 1000 for end in ends.values())
            assert all(end.usage.prompt_tokens == 1 for end in ends.values())
            load = await engine.load()
            assert load.finished_requests == 64  # none was started twice
            assert load.free_kv_blocks == load.total_kv_blocks


async def test_requests_that_are_cancelled_while_the_connection_is_down_end_at_the_engine(
    start_engine: StartEngine, engine_socket: str | None
) -> None:
    engine = await start_engine(session_socket=engine_socket)
    async with cut_proxy_of_sessions(engine) as proxy:
        async for service in start_service(proxy):
            peer = await open_session(service)
            engine.runner.hold()
            await peer.submit(0, token_request([5], 2000))
            engine.runner.allow(3)
            await engine.until(lambda load: load.generated_tokens > 0)
            await proxy.cut()
            await peer.cancel(0)
            await peer.finish(1)
            engine.runner.resume()
            await engine.until(is_idle)
            await peer.submit(1, token_request([6], 10))
            await peer.finish(1)
            assert peer.token_ids()[1] == continuation([6], 10)


async def test_when_the_service_stops_its_requests_end_at_once(
    start_engine: StartEngine, engine_socket: str | None
) -> None:
    engine = await start_engine(session_grace_s=3600.0, session_socket=engine_socket)
    async for service in start_service(engine):
        peer = await open_session(service)
        engine.runner.hold()
        for slot in range(4):
            await peer.submit(slot, token_request([slot], 2000))
        engine.runner.allow(3)
        await engine.until(lambda load: load.generated_tokens > 0)
    await engine.step_until(is_idle)
    assert (await engine.load()).generated_tokens < 4 * 200
    engine.runner.resume()


async def test_an_engine_that_dies_and_comes_back_goes_on_with_what_it_would_have_said(
    tmp_path: Path, engine_socket: str | None
) -> None:
    checkpoint = write_checkpoint(tmp_path, with_tokenizer=True, max_position_embeddings=1024)
    config = {
        "model": str(checkpoint),
        "device": "cpu",
        "max_model_len": 1024,
        "kv_cache_memory": 8 << 20,
        "session_socket": engine_socket,
    }
    engine = await start_server(load_runner, **config)
    requests = [
        token_request([10 + slot], 250, **sampling)
        for slot, sampling in enumerate(
            [
                {"temperature": 0.0},
                {"temperature": 0.0, "frequency_penalty": 0.5, "repetition_penalty": 1.1},
                {"temperature": 1.0, "seed": 7},
                {"temperature": 0.8, "seed": 8, "top_p": 0.9},
            ]
        )
    ]
    async for service in start_service(engine):
        undisturbed = await run(service, requests)
        peer = await open_session(service)
        for slot, each in enumerate(requests):
            await peer.submit(slot, each)
        for least in (50, 120):
            while min(len(peer.token_ids()[slot]) for slot in range(4)) < least:
                await peer.read()
            await engine.stop()
            engine = await start_server(load_runner, port=engine.port, **config)
        ends = await peer.finish(4)
        assert peer.token_ids() == undisturbed
        assert all(end.usage.completion_tokens == 250 for end in ends.values())
    async with connected(engine) as stub:
        assert (await stub.GetLoad(GetLoadRequest())).generated_tokens < 4 * 250
    await engine.stop()


async def test_a_second_engine_goes_on_with_what_a_drained_one_hands_back(
    start_engine: StartEngine,
) -> None:
    first = await start_engine(max_running=33)
    second = await start_engine(max_running=33)
    async with cut_proxy(first.port) as proxy:
        async for service in start_service(proxy):
            peer = await open_session(service)
            first.runner.hold()
            for slot in range(32):
                await peer.submit(slot, token_request([slot], 300))
            await first.step_until(lambda load: load.running_requests == 32)
            draining = asyncio.create_task(first.drain(timeout_ms=0))
            await first.until(lambda load: load.draining)
            await asyncio.sleep(0.1)
            await peer.submit(32, token_request([32], 300))  # the first engine does not admit it any more
            first.runner.resume()
            assert (await draining).handed_back_requests == 32
            made_by_first = (await first.load()).generated_tokens

            proxy.target = second.port
            await first.stop()
            ends = await peer.finish(33)
            assert peer.token_ids() == {slot: continuation([slot], 300) for slot in range(33)}
            assert all(end.usage.completion_tokens == 300 for end in ends.values())
            # No token was made twice.
            assert made_by_first + (await second.load()).generated_tokens == 33 * 300


async def test_requests_go_on_at_the_same_engine_when_it_admits_them_again(
    start_engine: StartEngine,
) -> None:
    engine = await start_engine()
    async for service in start_service(engine):
        peer = await open_session(service)
        engine.runner.hold()
        for slot in range(4):
            await peer.submit(slot, token_request([slot], 200))
        await engine.step_until(lambda load: load.running_requests == 4)
        assert await hand_back(engine) == 4
        await peer.cancel(0)
        await peer.finish(1)
        await engine.undrain()
        await peer.finish(3)
        for slot in range(1, 4):
            assert peer.token_ids()[slot] == continuation([slot], 200)
        await peer.submit(0, token_request([9], 10))
        await peer.finish(1)
        assert peer.token_ids()[0][-10:] == continuation([9], 10)


async def test_all_samples_of_a_request_go_on_after_a_drain(
    start_engine: StartEngine,
) -> None:
    engine = await start_engine()
    async for service in start_service(engine):
        peer = await open_session(service)
        engine.runner.hold()
        await peer.submit(0, token_request([1], 200, num_samples=3, seed=5))
        await engine.step_until(lambda load: load.running_requests == 3)
        assert await hand_back(engine) == 1
        await engine.undrain()
        ends = 0
        while ends < 3:
            ends += len((await peer.read()).finished)
        responses = [detail.response for message in peer.messages for detail in message.details]
        assert token_ids_of(responses) == {number: continuation([1], 200, number) for number in range(3)}


async def test_requests_that_a_drained_engine_handed_back_wait_no_longer_than_the_failover_takes(
    start_engine: StartEngine,
) -> None:
    engine = await start_engine()
    async for service in start_service(engine, failover_timeout_s=0.3):
        peer = await open_session(service)
        engine.runner.hold()
        await peer.submit(0, token_request([1], 200))
        await engine.step_until(lambda load: load.generated_tokens > 0)
        assert await hand_back(engine) == 1
        ended = (await peer.finish(1))[0]
        assert "draining" in ended.error.message
        await engine.undrain()
        await until(service.is_up)
        await generate(service, token_request([1], 3))


async def hand_back(engine: Engine) -> int:
    """Drain an engine whose runner is on hold, at once; how many requests it hands back."""
    draining = asyncio.create_task(engine.drain(timeout_ms=0))
    await engine.until(lambda load: load.draining)
    await asyncio.sleep(0.1)
    engine.runner.resume()
    return (await draining).handed_back_requests


async def run(service: Service, requests: list[Request]) -> dict[int, list[int]]:
    peer = await open_session(service)
    for slot, each in enumerate(requests):
        await peer.submit(slot, each)
    await peer.finish(len(requests))
    peer.call.cancel()
    return peer.token_ids()
