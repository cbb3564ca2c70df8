"""Whether an engine serves, as its health service says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

ENGINE_SERVICE = "tokenwire.v1.Engine"
_REQUEST = health_pb2.HealthCheckRequest(service=ENGINE_SERVICE)
_SILENCE_S = 3.0
"""How long nothing is said of there being no engine, which may only just start."""


async def watch_health(channel: grpc.aio.Channel) -> AsyncGenerator[bool, None]:
    """Whether the engine serves: now, as soon as it is there, and whenever that changes."""
    call = health_pb2_grpc.HealthStub(channel).Watch(_REQUEST, wait_for_ready=True)
    try:
        async for response in call:
            yield response.status == health_pb2.HealthCheckResponse.SERVING
    finally:
        call.cancel()


async def until_serving(channel: grpc.aio.Channel, explain: Callable[[str], None]) -> bool:
    """True once the engine is there and its model is loaded, however long that takes; False if it ended
    before that. `explain` is told, now and again, why it is not there."""
    explaining = asyncio.create_task(_explain(channel, explain))
    try:
        async with contextlib.aclosing(watch_health(channel)) as watching:
            async for is_serving in watching:
                if is_serving:
                    return True
    finally:
        explaining.cancel()
    return False


async def _explain(channel: grpc.aio.Channel, explain: Callable[[str], None]) -> None:
    """A call that waits for an engine does not say why there is none, however wrong the address is; others
    do."""
    while True:
        await asyncio.sleep(_SILENCE_S)
        try:
            await health_pb2_grpc.HealthStub(channel).Check(_REQUEST, timeout=_SILENCE_S)
        except grpc.aio.AioRpcError as error:
            explain(error.details() or error.code().name)
