"""Several engines behind one service: who gets a request, and where it goes on when its engine is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tokenizers import Tokenizer

from tests.cut_proxy import cut_proxy
from tests.engine.hash_runner import HashRunner, continuation, model_info
from tests.patience import PATIENCE_S, until
from tests.services.tokenizer.conftest import TEXT, Listener, Service, saying, start_service
from tests.services.tokenizer.fake_engine import FakeEngine
from tests.services.tokenizer.test_engine_failover import (
    drain,
    is_idle,
    load_of,
    load_until,
    output,
    request,
    run_until,
)
from tests.services.tokenizer.test_session import Peer
from tokenwire.v1 import engine_pb2, tokenizer_pb2
from tokenwire_engine.config import EngineConfig
from tokenwire_engine.server.server import EngineServer

StartEngine = Callable[..., Awaitable[tuple[EngineServer, HashRunner]]]


@pytest.fixture
async def start_engine(tmp_path: Path, files: dict[str, bytes]) -> AsyncIterator[StartEngine]:
    """Starts engines with the tokenizer's files, each on a port of its own."""
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    servers: list[EngineServer] = []

    async def start(**config: object) -> tuple[EngineServer, HashRunner]:
        runner = HashRunner(model_info(num_blocks=4096, max_model_len=2048, checkpoint=tmp_path))
        server = EngineServer(EngineConfig(port=0, **config), lambda *_: runner, lambda *_: None)  # type: ignore[arg-type]
        await server.start()
        await server.ready()
        servers.append(server)
        return server, runner

    yield start
    for server in servers:
        await server.stop()


@pytest.fixture
async def other(engine: FakeEngine, tokenizer: Tokenizer) -> AsyncIterator[FakeEngine]:
    """A second engine, which serves another model, as "other", and says something else."""
    info = engine_pb2.GetModelResponse()
    info.CopyFrom(engine.info)
    info.served_names[:] = ["other"]
    info.architecture = "Other"
    other = FakeEngine(dict(engine.files), saying(tokenizer, "Another model. "), info)
    await other.start()
    yield other
    await other.stop()


async def is_up(service: Service, name: str) -> bool:
    """Whether the service's health says that an engine, or the whole, serves."""
    stub = health_pb2_grpc.HealthStub(service.channel)
    status = (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status
    return status == health_pb2.HealthCheckResponse.SERVING


async def until_up(service: Service, *engines: Listener) -> None:
    """Wait until engines are connected."""
    for engine in engines:
        await until(lambda name=f"127.0.0.1:{engine.port}": is_up(service, name))


async def until_down(service: Service, engine: FakeEngine) -> None:
    """Wait until an engine's outage is not brief any more."""

    async def is_down() -> bool:
        return not await is_up(service, f"127.0.0.1:{engine.port}")

    await until(is_down)


async def ask(service: Service, **fields: object) -> str:
    """The text of an answer."""
    call = service.stub.Generate(tokenizer_pb2.TokenizerGenerateRequest(**fields))  # type: ignore[arg-type]
    return "".join([response.text_delta async for response in call])


async def generate(service: Service, prompt: list[int], count: int = 3, salt: str = "") -> None:
    """Have some tokens generated."""
    asked = request(prompt, count)
    asked.context.cache_salt = salt
    call = service.stub.Generate(asked)
    tokens = [token async for response in call for token in response.token_ids]
    assert tokens == continuation(prompt, count)


async def finished(*engines: EngineServer) -> list[int]:
    """How many requests each has computed."""
    return [(await load_of(engine)).finished_requests for engine in engines]


async def test_requests_without_a_common_prefix_are_shared_out_evenly(start_engine: StartEngine) -> None:
    (first, _), (second, _) = await start_engine(), await start_engine()
    async for service in start_service(first, second):
        await until_up(service, first, second)
        await asyncio.gather(*(generate(service, [number], 20) for number in range(32)))
        for number in range(8):
            await generate(service, [100 + number])
        assert await finished(first, second) == [20, 20]


async def test_a_request_goes_to_the_engine_that_has_computed_its_beginning(
    start_engine: StartEngine,
) -> None:
    engines = [await start_engine() for _ in range(3)]
    servers = [server for server, _ in engines]
    prefix = list(range(100, 300))
    async for service in start_service(*servers):
        await until_up(service, *servers)
        await generate(service, [5])  # goes to the first, and the prefix to the second
        await generate(service, prefix)
        assert await finished(*servers) == [1, 1, 0]
        await asyncio.sleep(0.2)  # for the news of the blocks to come
        for number in range(6):
            await generate(service, [*prefix, number])
        assert await finished(*servers) == [1, 7, 0]
        assert (await load_of(servers[1])).prefix_hit_tokens >= 6 * 192
        await generate(
            service, prefix, salt="another tenant"
        )  # shares nothing, and goes where least was sent
        assert await finished(*servers) == [1, 7, 1]


async def test_a_crowd_with_a_common_prefix_does_not_stay_with_one_engine(start_engine: StartEngine) -> None:
    (first, first_runner), (second, second_runner) = await start_engine(), await start_engine()
    prefix = list(range(100, 164))
    async for service in start_service(first, second):
        await until_up(service, first, second)
        await generate(service, prefix)
        await asyncio.sleep(0.2)
        first_runner.hold()  # a crowd is there all at once, however fast it is served
        second_runner.hold()
        crowd = asyncio.gather(*(generate(service, [*prefix, number], 20) for number in range(32)))
        await asyncio.sleep(0.3)
        first_runner.resume()
        second_runner.resume()
        await crowd
        assert min(await finished(first, second)) >= 4


@pytest.mark.parametrize("samples", [1, 3])
async def test_requests_of_an_engine_that_dies_go_on_at_another_at_once(
    start_engine: StartEngine, samples: int
) -> None:
    (first, first_runner), (second, second_runner) = await start_engine(), await start_engine()
    async for service in start_service(first, second, failover_timeout_s=3600.0):
        await until_up(service, first, second)
        peer = Peer(service.stub.Session())
        await peer.open()
        first_runner.hold()
        second_runner.hold()
        for slot in range(32):
            await peer.submit(slot, request([slot], 300, num_samples=samples, seed=1))
        for engine, runner in ((first, first_runner), (second, second_runner)):
            while not (await load_of(engine)).generated_tokens > 100:
                runner.allow(1)
                await asyncio.sleep(0.005)
        first_runner.resume()
        await first.stop()
        second_runner.resume()
        num_ended = 0
        tokens: dict[tuple[int, int], list[int]] = {}
        while num_ended < 32 * samples:
            message = await peer.read()
            num_ended += len(message.finished)
            assert not any(event.HasField("error") for event in message.finished)
            for detail in message.details:
                key = (detail.slot, detail.response.sample_index)
                tokens.setdefault(key, []).extend(detail.response.token_ids)
        assert tokens == {
            (slot, sample): continuation([slot], 300, sample)
            for slot in range(32)
            for sample in range(samples)
        }
        await load_until(second, is_idle)


async def test_an_engine_that_was_cut_off_for_long_ends_what_others_went_on_with(
    start_engine: StartEngine,
) -> None:
    (first, runner), (second, _) = await start_engine(), await start_engine()
    async with cut_proxy(first.port) as proxy:
        async for service in start_service(proxy, second):
            await until_up(service, proxy, second)
            peer = Peer(service.stub.Session())
            await peer.open()
            runner.hold()
            await peer.submit(0, request([1], 1500))
            await peer.submit(1, request([2], 1500))
            async with asyncio.timeout(PATIENCE_S):
                while (await load_of(first)).generated_tokens < 3:
                    runner.allow(1)
                    await asyncio.sleep(0.005)
            port, proxy.target_port = proxy.target_port, 1  # nobody listens there
            await proxy.cut()
            await peer.finish(2)
            assert output(peer) == {0: continuation([1], 1500), 1: continuation([2], 1500)}
            proxy.target_port = port
            await run_until(first, runner, is_idle)  # until it hears that nobody wants them any more
            assert (await load_of(first)).generated_tokens < 1500
            runner.resume()


async def test_a_draining_engine_gets_no_requests_and_what_it_hands_back_goes_to_another(
    start_engine: StartEngine,
) -> None:
    (first, first_runner), (second, second_runner) = await start_engine(), await start_engine()
    async for service in start_service(first, second, failover_timeout_s=3600.0):
        await until_up(service, first, second)
        peer = Peer(service.stub.Session())
        await peer.open()
        first_runner.hold()
        second_runner.hold()  # or it would be done with some before the others are shared out
        for slot in range(8):
            await peer.submit(slot, request([slot], 200))
        for engine, runner in ((first, first_runner), (second, second_runner)):
            await run_until(engine, runner, lambda load: load.running_requests == 4)
        second_runner.resume()
        draining = asyncio.create_task(drain(first, timeout_ms=0))
        await load_until(first, lambda load: load.draining)
        await asyncio.sleep(0.1)
        for slot in range(8, 12):
            await peer.submit(slot, request([slot], 200))
        first_runner.resume()
        assert (await draining).handed_back_requests == 4
        await peer.finish(12)
        assert output(peer) == {slot: continuation([slot], 200) for slot in range(12)}
        assert await finished(second) == [12]


async def test_requests_wait_for_any_engine_when_all_are_lost(start_engine: StartEngine) -> None:
    (first, runner), (second, _) = await start_engine(), await start_engine()
    async with cut_proxy(second.port) as proxy:
        target, proxy.target_port = proxy.target_port, 1
        async for service in start_service(first, proxy):
            peer = Peer(service.stub.Session())
            await peer.open()
            runner.hold()
            await peer.submit(0, request([1], 300))
            await load_until(first, lambda load: load.running_requests > 0)
            runner.resume()
            stopping = asyncio.create_task(first.stop())
            await asyncio.sleep(0.3)
            proxy.target_port = target
            await peer.finish(1)
            assert output(peer) == {0: continuation([1], 300)}
            await stopping


async def test_models_are_told_apart_by_name(engine: FakeEngine, other: FakeEngine) -> None:
    async for service in start_service(engine, other):
        await until_up(service, engine, other)
        listed = await service.stub.ListModels(tokenizer_pb2.ListModelsRequest())
        roots = {card.name: card.root for card in listed.models}
        assert roots == {"tiny": "tiny", "tiny-alias": "tiny", "other": "other"}
        assert await ask(service, text="Hello", model="tiny") == TEXT
        assert await ask(service, text="Hello", model="other") == "Another model. "
        for name, code in (("", "INVALID_ARGUMENT"), ("third", "NOT_FOUND")):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await ask(service, text="Hello", model=name)
            assert failure.value.code().name == code
            assert "served: tiny, tiny-alias, other" in (failure.value.details() or "")
        await other.stop()
        await until_down(service, other)
        with pytest.raises(grpc.aio.AioRpcError, match=f"no engine at 127.0.0.1:{other.port}"):
            await ask(service, text="Hello", model="other")
        assert await ask(service, text="Hello", model="tiny") == TEXT


async def test_an_engine_that_gives_a_name_a_second_meaning_is_refused(
    engine: FakeEngine, other: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    other.info.served_names[:] = ["other", "tiny"]
    async for service in start_service(engine):
        assert await is_up(service, "")
    await other.set_serving(False)
    async for service in start_service(engine, other):
        await until_up(service, engine)
        await other.set_serving(True)
        await until(lambda: "another model" in caplog.text)
        assert f"'tiny', and so does the engine at 127.0.0.1:{engine.port}" in caplog.text
        assert not await is_up(service, f"127.0.0.1:{other.port}")
        assert await is_up(service, "")
        for _ in range(4):
            assert await ask(service, text="Hello", model="tiny") == TEXT
        assert not other.requests


async def test_an_engine_that_tells_nothing_of_its_load_and_cache_is_sent_requests_all_the_same(
    engine: FakeEngine, other: FakeEngine, tokenizer: Tokenizer
) -> None:
    other.info.architecture = engine.info.architecture
    other.info.served_names[:] = ["tiny"]
    other.reply = engine.reply
    async for service in start_service(engine, other):
        await until_up(service, engine, other)
        assert [await ask(service, text="Hello") for _ in range(10)] == [TEXT] * 10
        assert (len(engine.requests), len(other.requests)) == (5, 5)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await engine.stop()
        assert await ask(service, text="Hello") == TEXT
