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
from tests.services.tokenizer.conftest import Service, start_service
from tests.services.tokenizer.test_session import Peer
from tokenwire.v1 import engine_pb2, engine_pb2_grpc, generation_pb2, tokenizer_pb2
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


async def until(engine: EngineServer, condition: Callable[[engine_pb2.GetLoadResponse], bool]) -> None:
    """Wait until the engine's load is as the condition says."""
    async with asyncio.timeout(10):
        while not condition(await load_of(engine)):  # noqa: ASYNC110 - it is another process's state
            await asyncio.sleep(0.01)


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
            assert proxy.num_cut == 20
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
            await until(engine, lambda load: load.generated_tokens > 0)
            await proxy.cut()
            await peer.cancel(0)
            await peer.finish(1)
            runner.resume()
            await until(engine, is_idle)
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
        await until(engine, lambda load: load.generated_tokens > 0)
        runner.resume()
    await until(engine, is_idle)
    assert (await load_of(engine)).generated_tokens < 4 * 2000


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


async def run(service: Service, requests: list[Request]) -> dict[int, list[int]]:
    peer = Peer(service.stub.Session())
    await peer.open()
    for slot, each in enumerate(requests):
        await peer.submit(slot, each)
    await peer.finish(len(requests))
    peer.call.cancel()
    return output(peer)
