"""How busy the engine is, on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from tokenwire.status import invalid_argument
from tokenwire.v1 import engine_pb2
from tokenwire_engine.core.load import Load

LEAST_INTERVAL_MS = 10
DEFAULT_INTERVAL_MS = 1000
_MOST_MS = (1 << 32) - 1


def load_to_proto(load: Load, num_sessions: int, draining: bool) -> engine_pb2.GetLoadResponse:
    """The answer to GetLoad."""
    wait_s = load.estimated_wait_s
    return engine_pb2.GetLoadResponse(
        running_requests=load.running_requests,
        waiting_requests=load.waiting_requests,
        total_kv_blocks=load.total_kv_blocks,
        free_kv_blocks=load.free_kv_blocks,
        steps=load.steps,
        prompt_tokens=load.prompt_tokens,
        generated_tokens=load.generated_tokens,
        preemptions=load.preemptions,
        finished_requests=load.finished_requests,
        sessions=num_sessions,
        prefix_query_tokens=load.prefix_query_tokens,
        prefix_hit_tokens=load.prefix_hit_tokens,
        cached_kv_blocks=load.cached_kv_blocks,
        step_time_us=round(load.step_time_s * 1e6),
        tokens_per_second=load.tokens_per_second,
        draining=draining,
        estimated_wait_ms=None if wait_s is None else min(round(wait_s * 1000), _MOST_MS),
    )


async def watch_load(
    request: engine_pb2.WatchLoadRequest, get_load: Callable[[], engine_pb2.GetLoadResponse]
) -> AsyncIterator[engine_pb2.WatchLoadResponse]:
    """The answers to WatchLoad: the load at once, and then, as often as was asked for, if it has changed.

    Raises:
        StatusError: INVALID_ARGUMENT, or what `get_load` raises.
    """
    interval_ms = request.interval_ms if request.HasField("interval_ms") else DEFAULT_INTERVAL_MS
    if interval_ms < LEAST_INTERVAL_MS:
        raise invalid_argument("interval_ms", f"is {interval_ms}; expected at least {LEAST_INTERVAL_MS}")
    latest = None
    while True:
        load = get_load()
        if load != latest:
            latest = load
            yield engine_pb2.WatchLoadResponse(load=load)
        await asyncio.sleep(interval_ms / 1000)
