"""The EngineAdmin service: what operators ask of an engine."""

# ruff: noqa: N802 - methods are named as in the protos

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from tokenwire.status import StatusError, abort
from tokenwire.v1 import engine_admin_pb2, engine_admin_pb2_grpc
from tokenwire_engine.core.commands import ResetPrefixCache
from tokenwire_engine.server.servicer import Serving


class EngineAdminServicer(engine_admin_pb2_grpc.EngineAdminServicer):
    """Answers with `serving`, a function that raises StatusError while there is nothing to answer with."""

    def __init__(self, serving: Callable[[], Serving]) -> None:
        self._serving = serving

    async def ResetPrefixCache(
        self,
        request: engine_admin_pb2.ResetPrefixCacheRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> engine_admin_pb2.ResetPrefixCacheResponse:
        try:
            serving = self._serving()
        except StatusError as error:
            await abort(context, error)
        loop = asyncio.get_running_loop()
        forgotten: asyncio.Future[int] = loop.create_future()

        def set_result(count: int) -> None:
            if not forgotten.done():  # the caller may have hung up
                forgotten.set_result(count)

        def done(count: int) -> None:
            loop.call_soon_threadsafe(set_result, count)

        serving.core.send(ResetPrefixCache(done))
        return engine_admin_pb2.ResetPrefixCacheResponse(forgotten_blocks=await forgotten)

    async def Drain(
        self, request: engine_admin_pb2.DrainRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> engine_admin_pb2.DrainResponse:
        try:
            timeout_s = request.timeout_ms / 1000 if request.HasField("timeout_ms") else None
            report = await self._serving().drainer.drain(timeout_s)
        except StatusError as error:
            await abort(context, error)
        return engine_admin_pb2.DrainResponse(
            finished_requests=report.num_finished,
            handed_back_requests=report.num_handed_back,
            duration_ms=round(report.seconds * 1000),
        )

    async def Undrain(
        self, request: engine_admin_pb2.UndrainRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> engine_admin_pb2.UndrainResponse:
        try:
            was_draining = await self._serving().drainer.undrain()
        except StatusError as error:
            await abort(context, error)
        return engine_admin_pb2.UndrainResponse(was_draining=was_draining)
