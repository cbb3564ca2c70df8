"""Several engines behind one service: who gets a request, and where it goes on when its engine is lost."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import defaultdict
from collections.abc import AsyncIterator

import grpc
import pytest
from tokenizers import Tokenizer

from tests.cut_proxy import cut_proxy
from tests.engine.hash_runner import continuation
from tests.engine.running import Engine, StartEngine, is_idle
from tests.patience import until
from tests.services.tokenizer.client import (
    Request,
    generate,
    open_session,
    text_of,
    token_ids_of,
    token_request,
)
from tests.services.tokenizer.conftest import TEXT, Listener, Service, saying, start_service
from tests.services.tokenizer.fake_engine import FakeEngine
from tokenwire.v1 import engine_pb2, tokenizer_pb2


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


async def until_up(service: Service, *engines: Listener) -> None:
    """Wait until engines are connected."""
    for engine in engines:
        await until(functools.partial(service.is_up, f"127.0.0.1:{engine.port}"))


async def ask(service: Service, **fields: object) -> str:
    """The text of an answer."""
    return text_of(await generate(service, Request(**fields)))  # type: ignore[arg-type]


async def compute(service: Service, prompt: list[int], count: int = 3, salt: str = "") -> None:
    """Have some tokens generated."""
    asked = token_request(prompt, count)
    asked.context.cache_salt = salt
    assert token_ids_of(await generate(service, asked)) == {0: continuation(prompt, count)}


async def finished(*engines: Engine) -> list[int]:
    """How many requests each has computed."""
    return [(await engine.load()).finished_requests for engine in engines]


async def test_requests_without_a_common_prefix_are_shared_out_evenly(start_engine: StartEngine) -> None:
    first, second = await start_engine(), await start_engine()
    async for service in start_service(first, second):
        await until_up(service, first, second)
        await asyncio.gather(*(compute(service, [number], 20) for number in range(32)))
        for number in range(8):
            await compute(service, [100 + number])
        assert await finished(first, second) == [20, 20]


async def test_a_request_goes_to_the_engine_that_has_computed_its_beginning(
    start_engine: StartEngine,
) -> None:
    engines = [await start_engine() for _ in range(3)]
    prefix = list(range(100, 300))
    async for service in start_service(*engines):
        await until_up(service, *engines)
        await compute(service, [5])  # goes to the first, and the prefix to the second
        await compute(service, prefix)
        assert await finished(*engines) == [1, 1, 0]
        await asyncio.sleep(0.2)  # for the news of the blocks to come
        for number in range(6):
            await compute(service, [*prefix, number])
        assert await finished(*engines) == [1, 7, 0]
        assert (await engines[1].load()).prefix_hit_tokens >= 6 * 192
        # Shares nothing, and goes where least was sent.
        await compute(service, prefix, salt="another tenant")
        assert await finished(*engines) == [1, 7, 1]


async def test_a_crowd_with_a_common_prefix_does_not_stay_with_one_engine(start_engine: StartEngine) -> None:
    first, second = await start_engine(), await start_engine()
    prefix = list(range(100, 164))
    async for service in start_service(first, second):
        await until_up(service, first, second)
        await compute(service, prefix)
        await asyncio.sleep(0.2)
        first.runner.hold()  # a crowd is there all at once, however fast it is served
        second.runner.hold()
        crowd = asyncio.gather(*(compute(service, [*prefix, number], 20) for number in range(32)))
        await asyncio.sleep(0.3)
        first.runner.resume()
        second.runner.resume()
        await crowd
        assert min(await finished(first, second)) >= 4


@pytest.mark.parametrize("samples", [1, 3])
async def test_requests_of_an_engine_that_dies_go_on_at_another_at_once(
    start_engine: StartEngine, samples: int
) -> None:
    first, second = await start_engine(), await start_engine()
    async for service in start_service(first, second, failover_timeout_s=3600.0):
        await until_up(service, first, second)
        peer = await open_session(service)
        first.runner.hold()
        second.runner.hold()
        for slot in range(32):
            await peer.submit(slot, token_request([slot], 300, num_samples=samples, seed=1))
        for engine in (first, second):
            await engine.step_until(lambda load: load.generated_tokens > 100)
        first.runner.resume()
        await first.stop()
        second.runner.resume()
        num_ended = 0
        while num_ended < 32 * samples:
            message = await peer.read()
            num_ended += len(message.finished)
            assert not any(event.HasField("error") for event in message.finished)
        tokens = defaultdict(list)
        for detail in (detail for message in peer.messages for detail in message.details):
            tokens[detail.slot, detail.response.sample_index] += detail.response.token_ids
        assert tokens == {
            (slot, sample): continuation([slot], 300, sample)
            for slot in range(32)
            for sample in range(samples)
        }
        await second.until(is_idle)


async def test_an_engine_that_was_cut_off_for_long_ends_what_others_went_on_with(
    start_engine: StartEngine,
) -> None:
    first, second = await start_engine(), await start_engine()
    async with cut_proxy(first.port) as proxy:
        async for service in start_service(proxy, second):
            await until_up(service, proxy, second)
            peer = await open_session(service)
            first.runner.hold()
            await peer.submit(0, token_request([1], 1500))
            await peer.submit(1, token_request([2], 1500))
            await first.step_until(lambda load: load.generated_tokens >= 3)
            port, proxy.target = proxy.target, 1  # nobody listens there
            await proxy.cut()
            await peer.finish(2)
            assert peer.token_ids() == {0: continuation([1], 1500), 1: continuation([2], 1500)}
            proxy.target = port
            await first.step_until(is_idle)  # until it hears that nobody wants them any more
            assert (await first.load()).generated_tokens < 1500
            first.runner.resume()


async def test_a_draining_engine_gets_no_requests_and_what_it_hands_back_goes_to_another(
    start_engine: StartEngine,
) -> None:
    first, second = await start_engine(), await start_engine()
    async for service in start_service(first, second, failover_timeout_s=3600.0):
        await until_up(service, first, second)
        peer = await open_session(service)
        first.runner.hold()
        second.runner.hold()  # or it would be done with some before the others are shared out
        for slot in range(8):
            await peer.submit(slot, token_request([slot], 200))
        for engine in (first, second):
            await engine.step_until(lambda load: load.running_requests == 4)
        second.runner.resume()
        draining = asyncio.create_task(first.drain(timeout_ms=0))
        await first.until(lambda load: load.draining)
        await asyncio.sleep(0.1)
        for slot in range(8, 12):
            await peer.submit(slot, token_request([slot], 200))
        first.runner.resume()
        assert (await draining).handed_back_requests == 4
        await peer.finish(12)
        assert peer.token_ids() == {slot: continuation([slot], 200) for slot in range(12)}
        assert await finished(second) == [12]


async def test_requests_wait_for_any_engine_when_all_are_lost(start_engine: StartEngine) -> None:
    first, second = await start_engine(), await start_engine()
    async with cut_proxy(second.port) as proxy:
        target, proxy.target = proxy.target, 1
        async for service in start_service(first, proxy):
            peer = await open_session(service)
            first.runner.hold()
            await peer.submit(0, token_request([1], 300))
            await first.until(lambda load: load.running_requests > 0)
            first.runner.resume()
            stopping = asyncio.create_task(first.stop())
            await asyncio.sleep(0.3)
            proxy.target = target
            await peer.finish(1)
            assert peer.token_ids() == {0: continuation([1], 300)}
            await stopping


async def test_a_model_holds_as_many_requests_as_its_engines_together(
    engine: FakeEngine, other: FakeEngine
) -> None:
    engine.info.max_requests = 30
    other.info.CopyFrom(engine.info)
    other.files = engine.files
    other.info.max_requests = 12
    async for service in start_service(engine, other):
        await until_up(service, engine, other)
        listed = await service.stub.ListModels(tokenizer_pb2.ListModelsRequest())
        assert {card.name: card.max_requests for card in listed.models} == {"tiny": 42, "tiny-alias": 42}


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
        await until(functools.partial(service.is_down, f"127.0.0.1:{other.port}"))
        with pytest.raises(grpc.aio.AioRpcError, match=f"no engine at 127.0.0.1:{other.port}"):
            await ask(service, text="Hello", model="other")
        assert await ask(service, text="Hello", model="tiny") == TEXT


async def test_an_engine_that_gives_a_name_a_second_meaning_is_refused(
    engine: FakeEngine, other: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    other.info.served_names[:] = ["other", "tiny"]
    async for service in start_service(engine):
        assert await service.is_up("")
    await other.set_serving(False)
    async for service in start_service(engine, other):
        await until_up(service, engine)
        await other.set_serving(True)
        await until(lambda: "another model" in caplog.text)
        assert f"'tiny', and so does the engine at 127.0.0.1:{engine.port}" in caplog.text
        assert not await service.is_up(f"127.0.0.1:{other.port}")
        assert await service.is_up("")
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
