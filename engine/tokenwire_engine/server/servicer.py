"""The Engine service: every call finds the model here, or hears that it is not ready.

Whatever a call raises as `StatusError` becomes its status.
"""

# ruff: noqa: N802 - methods are named as in the protos

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from tokenwire.duplex.served_call import LibraryCall
from tokenwire.duplex.sessions import Sessions
from tokenwire.status import StatusError, abort
from tokenwire.v1 import engine_pb2, engine_pb2_grpc
from tokenwire_engine.core.core import EngineCore
from tokenwire_engine.server.dispatch import Dispatcher
from tokenwire_engine.server.drain import Drainer
from tokenwire_engine.server.generate import generate
from tokenwire_engine.server.kv_events import KvEvents
from tokenwire_engine.server.load import load_to_proto, watch_load
from tokenwire_engine.server.model import ServedModel, tokenizer_files
from tokenwire_engine.server.session import Stream

Answer = TypeVar("Answer")


@dataclass(slots=True, frozen=True)
class Serving:
    """All that calls need once the model is loaded."""

    model: ServedModel
    core: EngineCore
    dispatcher: Dispatcher
    sessions: Sessions[Stream]
    drainer: Drainer
    kv_events: KvEvents

    def load(self) -> engine_pb2.GetLoadResponse:
        """How busy the engine is."""
        return load_to_proto(self.core.load, len(self.sessions), self.drainer.is_draining)


class EngineServicer(engine_pb2_grpc.EngineServicer):
    """Answers with `serving`, a function that raises StatusError while there is nothing to answer with."""

    def __init__(self, serving: Callable[[], Serving]) -> None:
        self._serving = serving

    # The generated types know streams as generators only; writing to the context lets a call clean up at
    # once when it is cancelled.
    async def Generate(  # type: ignore[override]
        self,
        request: engine_pb2.GenerateRequest,
        context: grpc.aio.ServicerContext[engine_pb2.GenerateRequest, engine_pb2.GenerateResponse],
    ) -> None:
        async def answer(serving: Serving) -> None:
            await generate(request, serving.model, serving.dispatcher, context)

        await self._answer(context, answer)

    async def Session(  # type: ignore[override]
        self, request_iterator: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        try:
            await self.serve_session(LibraryCall(context))
        except StatusError as error:
            await abort(context, error)

    async def serve_session(self, stream: Stream) -> None:
        """Serve a call of Session, whoever carries it.

        Raises:
            StatusError: what to end it with.
        """
        await self._serving().sessions.serve(stream)

    async def GetModel(
        self, request: engine_pb2.GetModelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> engine_pb2.GetModelResponse:
        async def answer(serving: Serving) -> engine_pb2.GetModelResponse:
            return serving.model.to_proto()

        return await self._answer(context, answer)

    async def GetTokenizerFiles(  # type: ignore[override]
        self,
        request: engine_pb2.GetTokenizerFilesRequest,
        context: grpc.aio.ServicerContext[
            engine_pb2.GetTokenizerFilesRequest, engine_pb2.GetTokenizerFilesResponse
        ],
    ) -> None:
        async def answer(serving: Serving) -> None:
            pieces = tokenizer_files(serving.model.info.checkpoint)
            while (piece := await asyncio.to_thread(_next_or_none, pieces)) is not None:
                await context.write(piece)

        await self._answer(context, answer)

    async def GetLoad(
        self, request: engine_pb2.GetLoadRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> engine_pb2.GetLoadResponse:
        async def answer(serving: Serving) -> engine_pb2.GetLoadResponse:
            return serving.load()

        return await self._answer(context, answer)

    async def WatchLoad(  # type: ignore[override]
        self,
        request: engine_pb2.WatchLoadRequest,
        context: grpc.aio.ServicerContext[engine_pb2.WatchLoadRequest, engine_pb2.WatchLoadResponse],
    ) -> None:
        def load() -> engine_pb2.GetLoadResponse:
            return self._serving().load()

        async def answer(serving: Serving) -> None:
            async for response in watch_load(request, load):
                await context.write(response)

        await self._answer(context, answer)

    async def WatchKvEvents(  # type: ignore[override]
        self,
        request: engine_pb2.WatchKvEventsRequest,
        context: grpc.aio.ServicerContext[engine_pb2.WatchKvEventsRequest, engine_pb2.WatchKvEventsResponse],
    ) -> None:
        async def answer(serving: Serving) -> None:
            async with aclosing(serving.kv_events.watch()) as events:
                async for event in events:
                    await context.write(event)

        await self._answer(context, answer)

    async def _answer(
        self,
        context: grpc.aio.ServicerContext[Any, Any],
        answer: Callable[[Serving], Awaitable[Answer]],
    ) -> Answer:
        try:
            return await answer(self._serving())
        except StatusError as error:
            await abort(context, error)


def _next_or_none(
    pieces: Iterator[engine_pb2.GetTokenizerFilesResponse],
) -> engine_pb2.GetTokenizerFilesResponse | None:
    return next(pieces, None)
