"""The prefix cache as its users see it: usage, salts, resets."""

from __future__ import annotations

from tests.engine.hash_runner import continuation
from tests.engine.running import Engine, StartEngine
from tokenwire.v1 import engine_admin_pb2_grpc
from tokenwire.v1.engine_admin_pb2 import ResetPrefixCacheRequest
from tokenwire.v1.engine_pb2 import GenerateRequest
from tokenwire.v1.generation_pb2 import RequestContext, StopConditions

PROMPT = list(range(100, 150))


async def cached_tokens(engine: Engine, salt: str = "") -> int:
    """Of the prompt, as the request's usage says."""
    request = GenerateRequest(
        prompt_token_ids=PROMPT,
        stop=StopConditions(max_tokens=4),
        context=RequestContext(cache_salt=salt),
    )
    tokens: list[int] = []
    async for response in engine.stub.Generate(request):
        tokens += response.token_ids
    assert tokens == continuation(PROMPT, 4)
    return response.usage.cached_prompt_tokens


async def test_usage_and_load_tell_what_was_cached(engine: Engine) -> None:
    assert [await cached_tokens(engine) for _ in range(2)] == [0, 48]
    load = await engine.load()
    assert (load.prefix_query_tokens, load.prefix_hit_tokens, load.cached_kv_blocks) == (100, 48, 3)
    assert load.free_kv_blocks == load.total_kv_blocks


async def test_tenants_with_salts_of_their_own_share_nothing(engine: Engine) -> None:
    assert [await cached_tokens(engine, salt) for salt in ("a", "b", "a")] == [0, 0, 48]


async def test_a_reset_empties_the_cache(engine: Engine) -> None:
    await cached_tokens(engine)
    admin: engine_admin_pb2_grpc.EngineAdminAsyncStub = engine_admin_pb2_grpc.EngineAdminStub(engine.channel)
    assert (await admin.ResetPrefixCache(ResetPrefixCacheRequest())).forgotten_blocks == 3
    assert (await engine.load()).cached_kv_blocks == 0
    assert await cached_tokens(engine) == 0


async def test_the_cache_can_be_turned_off(start_engine: StartEngine) -> None:
    engine = await start_engine(prefix_cache=False)
    assert [await cached_tokens(engine) for _ in range(2)] == [0, 0]
