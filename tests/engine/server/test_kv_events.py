"""WatchKvEvents: a watcher's copy of the prefix cache is what the cache holds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import grpc
import pytest

from tests.engine.hash_runner import HashRunner, model_info
from tests.engine.running import Engine, StartEngine
from tests.patience import PATIENCE_S, until
from tokenwire.kv_hash import block_hash, prefix_hashes, root_hash
from tokenwire.v1 import engine_admin_pb2_grpc
from tokenwire.v1.engine_admin_pb2 import ResetPrefixCacheRequest
from tokenwire.v1.engine_pb2 import GenerateRequest, WatchKvEventsRequest, WatchKvEventsResponse
from tokenwire.v1.generation_pb2 import RequestContext, StopConditions
from tokenwire_engine.kv_cache.changes import Change, Cleared, Removed, Stored
from tokenwire_engine.kv_cache.prefix_node import PrefixNode
from tokenwire_engine.server import kv_events


class Watcher:
    """A copy of an engine's prefix cache, by hash."""

    def __init__(self, engine: Engine) -> None:
        self.call = engine.stub.WatchKvEvents(WatchKvEventsRequest())
        self.blocks: dict[int, WatchKvEventsResponse.StoredBlock] = {}
        self.sequence = 0
        self.resets = 0

    async def read(self) -> WatchKvEventsResponse:
        async with asyncio.timeout(PATIENCE_S):
            message = await self.call.read()
        assert message.sequence >= self.sequence
        self.sequence = message.sequence
        if message.reset:
            self.resets += 1
            self.blocks.clear()
        for block in message.removed:
            del self.blocks[block]
        for block in message.stored:
            assert block.hash == block_hash(block.parent_hash, block.token_ids)
            assert block.hash not in self.blocks
            self.blocks[block.hash] = block
        return message

    async def until(self, hashes: set[int]) -> None:
        """Read until the copy has just these blocks."""
        while self.blocks.keys() != hashes:
            await self.read()


async def generate(engine: Engine, prompt: list[int], max_tokens: int = 1, salt: str = "") -> list[int]:
    """The prompt and what was made of it."""
    tokens = list(prompt)
    request = GenerateRequest(
        prompt_token_ids=prompt,
        stop=StopConditions(max_tokens=max_tokens),
        context=RequestContext(cache_salt=salt),
    )
    async for response in engine.stub.Generate(request):
        tokens += response.token_ids
    return tokens


def cached(tokens: list[int], salt: str = "") -> list[int]:
    """Hashes of the blocks that stay of a sequence; its last token was never computed."""
    return prefix_hashes(tokens[:-1], 16, cache_salt=salt)


async def test_a_watcher_hears_of_blocks_as_they_are_filled(engine: Engine) -> None:
    watcher = Watcher(engine)
    first = await watcher.read()
    assert first.reset
    assert not first.stored
    tokens = await generate(engine, [7] * 40, max_tokens=30)
    await watcher.until(set(cached(tokens)))
    assert watcher.resets == 1
    chain = list(watcher.blocks.values())
    assert [block.parent_hash for block in chain] == [root_hash(), *(block.hash for block in chain[:-1])]
    assert [token for block in chain for token in block.token_ids] == tokens[:64]
    watcher.call.cancel()


async def test_a_late_watcher_begins_with_what_is_there(engine: Engine) -> None:
    early = Watcher(engine)
    one = cached(await generate(engine, [1] * 50))
    salted = cached(await generate(engine, [1] * 50, salt="tenant"), "tenant")
    late = Watcher(engine)
    await late.until({*one, *salted})
    assert late.resets == 1
    await early.until({*one, *salted})
    more = cached(await generate(engine, [1] * 32 + [2] * 30))
    for watcher in (early, late):
        await watcher.until({*one, *salted, *more})
        watcher.call.cancel()
    assert len({*one, *more}) == 3 + 1


async def test_a_watcher_that_comes_when_others_have_left_sees_what_happened_meanwhile(
    engine: Engine,
) -> None:
    first = Watcher(engine)
    one = cached(await generate(engine, [1] * 40))
    await first.until(set(one))
    first.call.cancel()
    two = cached(await generate(engine, [2] * 40))
    second = Watcher(engine)
    await second.until({*one, *two})
    second.call.cancel()


async def test_blocks_that_are_evicted_or_forgotten_are_removed(start_engine: StartEngine) -> None:
    engine = await start_engine(HashRunner(model_info(num_blocks=8)))
    watcher = Watcher(engine)
    one = cached(await generate(engine, [1] * 60))
    await watcher.until(set(one))
    two = cached(await generate(engine, [2] * 90))
    await watcher.until({*one[:2], *two})  # the deepest went first
    await engine_admin_pb2_grpc.EngineAdminStub(engine.channel).ResetPrefixCache(ResetPrefixCacheRequest())
    await watcher.until(set())
    three = cached(await generate(engine, [1] * 60))
    assert three == one
    await watcher.until(set(three))
    watcher.call.cancel()


async def test_a_slow_watcher_gets_everything_anew_instead_of_a_long_backlog(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_events, "MAX_PENDING", 20)
    monkeypatch.setattr(kv_events, "MAX_MESSAGE_BLOCKS", 7)
    engine = await start_engine(HashRunner(model_info(num_blocks=32)))
    serving = engine.server._get_serving()
    events = serving.kv_events.watch()
    copy: set[int] = set()
    resets = 0

    def take(message: WatchKvEventsResponse) -> None:
        nonlocal resets
        if message.reset:
            resets += 1
            copy.clear()
        copy.difference_update(message.removed)
        copy.update(block.hash for block in message.stored)
        assert len(message.stored) <= 20

    take(await anext(events))
    rng = random.Random(0)
    for _ in range(20):  # nobody reads meanwhile
        tokens = await generate(engine, [rng.randrange(3) for _ in range(100)])
    last = cached(tokens)
    async with asyncio.timeout(PATIENCE_S):
        while not copy.issuperset(last) or len(copy) > 32:
            take(await anext(events))
    assert resets == 2
    assert len(serving.kv_events._mirror.watchers[0].pending) <= 20
    await events.aclose()
    assert serving.kv_events._mirror is None


@pytest.mark.parametrize("windows", [(0,), (40,), (0, 40)])
@pytest.mark.parametrize("num_host_blocks", [0, 30])
async def test_copies_follow_a_cache_under_pressure(
    start_engine: StartEngine, windows: tuple[int, ...], num_host_blocks: int
) -> None:
    info = model_info(num_blocks=40, windows=windows, num_host_blocks=num_host_blocks)
    engine = await start_engine(HashRunner(info), max_running=4)
    watchers = [Watcher(engine) for _ in range(3)]
    rng = random.Random(1)
    prefixes = [[rng.randrange(900) for _ in range(48)] for _ in range(4)]

    async def client() -> None:
        for _ in range(12):
            own = [rng.randrange(900) for _ in range(rng.randrange(40))]
            await generate(engine, rng.choice(prefixes) + own, max_tokens=rng.randrange(1, 60))

    reading = [asyncio.create_task(_read_on(watcher)) for watcher in watchers]
    await asyncio.gather(*(client() for _ in range(6)))
    await engine.until_idle()
    # Whoever comes now gets what the cache holds.
    truth = Watcher(engine)
    await truth.read()
    load = await engine.load()
    assert len(truth.blocks) <= load.cached_kv_blocks + num_host_blocks
    assert load.cached_kv_blocks <= len(truth.blocks) * len(windows)
    await until(lambda: all(watcher.blocks.keys() == truth.blocks.keys() for watcher in watchers))
    for task in reading:
        task.cancel()
    for watcher in (*watchers, truth):
        watcher.call.cancel()


async def test_a_block_keeps_its_hash_when_those_before_it_are_gone() -> None:
    deliver: list[Callable[[list[Change]], object]] = []
    events = kv_events.KvEvents(lambda command: deliver.append(command.deliver), is_enabled=True)
    watching = events.watch()
    following = asyncio.create_task(anext(watching))
    await asyncio.sleep(0)
    first = PrefixNode(0, (("a", "s"), (1, 2)), ("a", "s"), None)
    second = PrefixNode(1, (0, (3, 4)), ("a", "s"), first)
    third = PrefixNode(2, (1, (5, 6)), ("a", "s"), second)
    deliver[0]([Cleared(), Stored(first), Stored(second), Removed(first), Removed(second), Stored(third)])
    (block,) = (await following).stored
    assert block.hash == prefix_hashes([1, 2, 3, 4, 5, 6], 2, "a", "s")[2]
    assert block.parent_hash == prefix_hashes([1, 2, 3, 4], 2, "a", "s")[1]
    assert block.adapter == "a"
    await watching.aclose()


async def _read_on(watcher: Watcher) -> None:
    while True:
        message = await watcher.call.read()
        if message.reset:
            watcher.blocks.clear()
        for block in message.removed:
            del watcher.blocks[block]
        watcher.blocks |= {block.hash: block for block in message.stored}


async def test_without_a_prefix_cache_there_is_nothing_to_watch(start_engine: StartEngine) -> None:
    engine = await start_engine(prefix_cache=False)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await engine.stub.WatchKvEvents(WatchKvEventsRequest()).read()
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "--no-prefix-cache" in caught.value.details()
