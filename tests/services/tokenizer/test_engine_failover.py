"""A real engine behind the service: its connection is cut, or it dies and comes back; no stream notices."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest

from tests.checkpoints import write_checkpoint
from tests.cut_proxy import cut_proxy
from tests.engine.hash_runner import HashRunner, continuation, model_info
from tests.patience import PATIENCE_S
from tests.services.tokenizer.conftest import Service, start_service
from tests.services.tokenizer.test_session import Peer
from tokenwire.v1 import (
    engine_admin_pb2,
    engine_admin_pb2_grpc,
    engine_pb2,
    engine_pb2_grpc,
    generation_pb2,
    tokenizer_pb2,
)
from tokenwire_engine.config import EngineConfig
from tokenwire_engine.runner.load import load_runner
from tokenwire_engine.server.server import EngineServer, RunnerLoader

Request = tokenizer_pb2.TokenizerGenerateRequest
StartEngine = Callable[..., Awaitable[EngineServer]]


def request(prompt: list[int], max_tokens: int, **sampling: object) -> Request:
    """Token IDs in, token IDs out."""
    return Request(
        token_ids=generation_pb2.TokenIds(ids=prompt),
        stop=generation_pb2.StopConditions(max_tokens=max_tokens, ignore_eos=True),
        sampling=generation_pb2.SamplingParams(**sampling),  # type: ignore[arg-type]
        return_token_ids=True,
    )


def output(peer: Peer) -> dict[int, list[int]]:
    """The token IDs that each slot got."""
    tokens: dict[int, list[int]] = defaultdict(list)
    for message in peer.messages:
        for detail in message.details:
            tokens[detail.slot] += detail.response.token_ids
    return tokens


@pytest.fixture
async def start_engine() -> AsyncIterator[StartEngine]:
    """Starts engines, on the port of the one before."""
    servers: list[EngineServer] = []

    async def start(load: RunnerLoader, **config: object) -> EngineServer:
        port = servers[-1].port if servers else 0
        server = EngineServer(EngineConfig(port=port, **config), load, lambda *_: None)  # type: ignore[arg-type]
        await server.start()
        await server.ready()
        servers.append(server)
        return server

    yield start
    await servers[-1].stop()


async def load_of(engine: EngineServer) -> engine_pb2.GetLoadResponse:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{engine.port}") as channel:
        stub: engine_pb2_grpc.EngineAsyncStub = engine_pb2_grpc.EngineStub(channel)
        return await stub.GetLoad(engine_pb2.GetLoadRequest())


async def load_until(engine: EngineServer, condition: Callable[[engine_pb2.GetLoadResponse], bool]) -> None:
    """Wait until the engine's load is as the condition says."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition(await load_of(engine)):  # noqa: ASYNC110 - it is another process's state
            await asyncio.sleep(0.01)


async def run_until(
    engine: EngineServer, runner: HashRunner, condition: Callable[[engine_pb2.GetLoadResponse], bool]
) -> None:
    """Compute steps, one by one, until the load is as the condition says."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition(await load_of(engine)):
            runner.allow(1)
            await asyncio.sleep(0.005)


def is_idle(load: engine_pb2.GetLoadResponse) -> bool:
    """Whether no request is left, and every block is free."""
    return load.running_requests + load.waiting_requests == 0 and load.free_kv_blocks == load.total_kv_blocks


@pytest.fixture
def runner(tmp_path: Path, files: dict[str, bytes]) -> HashRunner:
    """Has the tokenizer's files, and is quick."""
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return HashRunner(model_info(num_blocks=4096, max_model_len=2048, checkpoint=tmp_path))


async def test_twenty_cuts_during_sixty_four_streams_change_nothing(
    start_engine: StartEngine, runner: HashRunner
) -> None:
    engine = await start_engine(lambda *_: runner, max_running=64)
    runner.hold()

    async def cut_while_it_computes() -> None:
        cutting = asyncio.create_task(proxy.cut_at_random(20))
        while not cutting.done():
            runner.allow(1)
            await asyncio.sleep(0.01)
        runner.resume()

    async with cut_proxy(engine.port) as proxy:
        async for service in start_service(proxy):
            peer = Peer(service.stub.Session())
            await peer.open()
            for slot in range(64):
                await peer.submit(slot, request([slot], 1000))
            ends, _ = await asyncio.gather(peer.finish(64), cut_while_it_computes())
            assert proxy.num_cut >= 20
            assert output(peer) == {slot: continuation([slot], 1000) for slot in range(64)}
            assert all(end.usage.completion_tokens == 1000 for end in ends.values())
            assert all(end.usage.prompt_tokens == 1 for end in ends.values())
            load = await load_of(engine)
            assert load.finished_requests == 64  # none was started twice
            assert load.free_kv_blocks == load.total_kv_blocks


async def test_requests_that_are_cancelled_while_the_connection_is_down_end_at_the_engine(
    start_engine: StartEngine, runner: HashRunner
) -> None:
    engine = await start_engine(lambda *_: runner)
    async with cut_proxy(engine.port) as proxy:
        async for service in start_service(proxy):
            peer = Peer(service.stub.Session())
            await peer.open()
            runner.hold()
            await peer.submit(0, request([5], 2000))
            runner.allow(3)
            await load_until(engine, lambda load: load.generated_tokens > 0)
            await proxy.cut()
            await peer.cancel(0)
            await peer.finish(1)
            runner.resume()
            await load_until(engine, is_idle)
            await peer.submit(1, request([6], 10))
            await peer.finish(1)
            assert output(peer)[1] == continuation([6], 10)


async def test_when_the_service_stops_its_requests_end_at_once(
    start_engine: StartEngine, runner: HashRunner
) -> None:
    engine = await start_engine(lambda *_: runner, session_grace_s=3600.0)
    async for service in start_service(engine):
        peer = Peer(service.stub.Session())
        await peer.open()
        runner.hold()
        for slot in range(4):
            await peer.submit(slot, request([slot], 2000))
        runner.allow(3)
        await load_until(engine, lambda load: load.generated_tokens > 0)
    await run_until(engine, runner, is_idle)
    assert (await load_of(engine)).generated_tokens < 4 * 200
    runner.resume()


async def test_an_engine_that_dies_and_comes_back_goes_on_with_what_it_would_have_said(
    start_engine: StartEngine, tmp_path: Path
) -> None:
    checkpoint = write_checkpoint(tmp_path, with_tokenizer=True, max_position_embeddings=1024)
    config = {
        "model": str(checkpoint),
        "device": "cpu",
        "max_model_len": 1024,
        "kv_cache_memory": 8 << 20,
    }
    engine = await start_engine(load_runner, **config)
    requests = [
        request([10 + slot], 250, **sampling)
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
        peer = Peer(service.stub.Session())
        await peer.open()
        for slot, each in enumerate(requests):
            await peer.submit(slot, each)
        for least in (50, 120):
            while min(len(output(peer)[slot]) for slot in range(4)) < least:
                await peer.read()
            await engine.stop()
            engine = await start_engine(load_runner, **config)
        ends = await peer.finish(4)
        assert output(peer) == undisturbed
        assert all(end.usage.completion_tokens == 250 for end in ends.values())
        assert (await load_of(engine)).generated_tokens < 4 * 250


async def test_a_second_engine_goes_on_with_what_a_drained_one_hands_back(
    start_engine: StartEngine, runner: HashRunner
) -> None:
    first = await start_engine(lambda *_: runner, max_running=33)
    second = EngineServer(
        EngineConfig(port=0, max_running=33), lambda *_: HashRunner(runner.info), lambda *_: None
    )
    async with cut_proxy(first.port) as proxy:
        async for service in start_service(proxy):
            peer = Peer(service.stub.Session())
            await peer.open()
            runner.hold()
            for slot in range(32):
                await peer.submit(slot, request([slot], 300))
            await run_until(first, runner, lambda load: load.running_requests == 32)
            draining = asyncio.create_task(drain(first, timeout_ms=0))
            await load_until(first, lambda load: load.draining)
            await asyncio.sleep(0.1)
            await peer.submit(32, request([32], 300))  # the first engine does not admit it any more
            runner.resume()
            assert (await draining).handed_back_requests == 32
            made_by_first = (await load_of(first)).generated_tokens

            await second.start()
            await second.ready()
            proxy.target_port = second.port
            await first.stop()
            ends = await peer.finish(33)
            assert output(peer) == {slot: continuation([slot], 300) for slot in range(33)}
            assert all(end.usage.completion_tokens == 300 for end in ends.values())
            # No token was made twice.
            assert made_by_first + (await load_of(second)).generated_tokens == 33 * 300
    await second.stop()


async def test_requests_go_on_at_the_same_engine_when_it_admits_them_again(
    start_engine: StartEngine, runner: HashRunner
) -> None:
    engine = await start_engine(lambda *_: runner)
    async for service in start_service(engine):
        peer = Peer(service.stub.Session())
        await peer.open()
        runner.hold()
        for slot in range(4):
            await peer.submit(slot, request([slot], 200))
        await run_until(engine, runner, lambda load: load.running_requests == 4)
        draining = asyncio.create_task(drain(engine, timeout_ms=0))
        await load_until(engine, lambda load: load.draining)
        await asyncio.sleep(0.1)
        runner.resume()
        assert (await draining).handed_back_requests == 4
        await peer.cancel(0)
        await peer.finish(1)
        await undrain(engine)
        await peer.finish(3)
        for slot in range(1, 4):
            assert output(peer)[slot] == continuation([slot], 200)
        await peer.submit(0, request([9], 10))
        await peer.finish(1)
        assert output(peer)[0][-10:] == continuation([9], 10)


async def test_all_samples_of_a_request_go_on_after_a_drain(
    start_engine: StartEngine, runner: HashRunner
) -> None:
    engine = await start_engine(lambda *_: runner)
    async for service in start_service(engine):
        peer = Peer(service.stub.Session())
        await peer.open()
        runner.hold()
        await peer.submit(0, request([1], 200, num_samples=3, seed=5))
        await run_until(engine, runner, lambda load: load.running_requests == 3)
        draining = asyncio.create_task(drain(engine, timeout_ms=0))
        await load_until(engine, lambda load: load.draining)
        await asyncio.sleep(0.1)
        runner.resume()
        assert (await draining).handed_back_requests == 1
        await undrain(engine)
        samples: dict[int, list[int]] = defaultdict(list)
        ends = 0
        while ends < 3:
            message = await peer.read()
            ends += len(message.finished)
        for message in peer.messages:
            for detail in message.details:
                samples[detail.response.sample_index] += detail.response.token_ids
        assert samples == {number: continuation([1], 200, number) for number in range(3)}


async def test_requests_that_a_drained_engine_handed_back_wait_no_longer_than_the_failover_takes(
    start_engine: StartEngine, runner: HashRunner
) -> None:
    engine = await start_engine(lambda *_: runner)
    async for service in start_service(engine, failover_timeout_s=0.3):
        peer = Peer(service.stub.Session())
        await peer.open()
        runner.hold()
        await peer.submit(0, request([1], 200))
        await run_until(engine, runner, lambda load: load.generated_tokens > 0)
        draining = asyncio.create_task(drain(engine, timeout_ms=0))
        await load_until(engine, lambda load: load.draining)
        await asyncio.sleep(0.1)
        runner.resume()
        await draining
        ended = (await peer.finish(1))[0]
        assert "draining" in ended.error.message
        await undrain(engine)
        await until_served(service)


async def drain(engine: EngineServer, timeout_ms: int | None = None) -> engine_admin_pb2.DrainResponse:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{engine.port}") as channel:
        admin: engine_admin_pb2_grpc.EngineAdminAsyncStub = engine_admin_pb2_grpc.EngineAdminStub(channel)
        return await admin.Drain(engine_admin_pb2.DrainRequest(timeout_ms=timeout_ms))


async def undrain(engine: EngineServer) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{engine.port}") as channel:
        await engine_admin_pb2_grpc.EngineAdminStub(channel).Undrain(engine_admin_pb2.UndrainRequest())


async def until_served(service: Service) -> None:
    """Wait until the service takes requests."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                async for _ in service.stub.Generate(request([1], 3)):
                    pass
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.02)
            else:
                return


async def run(service: Service, requests: list[Request]) -> dict[int, list[int]]:
    peer = Peer(service.stub.Session())
    await peer.open()
    for slot, each in enumerate(requests):
        await peer.submit(slot, each)
    await peer.finish(len(requests))
    peer.call.cancel()
    return output(peer)
