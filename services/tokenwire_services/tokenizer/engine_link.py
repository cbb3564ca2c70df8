"""The connection to an engine: one session at a time for all requests of this process.

The link waits for the engine, learns its model, and connects again for ever when the engine is lost. A
request belongs to one session: when that breaks, the request fails with UNAVAILABLE.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tokenwire.status import StatusError, unavailable
from tokenwire.v1 import engine_pb2, engine_pb2_grpc
from tokenwire_services.tokenizer.engine_session import Command, EngineSession
from tokenwire_services.tokenizer.model import Model, fetch_files, load_model

log = logging.getLogger(__name__)

ENGINE_SERVICE = "tokenwire.v1.Engine"
RETRY_AFTER_S = 1.0
"""What callers are told to wait while the engine is away."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
"""Pauses between attempts to connect; they double from the first to the longest."""
_ANSWER_TIMEOUT_S = 120.0
"""For the engine to answer a question about its model once it serves."""
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 64 << 20),
    # An engine whose host vanished without a word is noticed.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)

Call = grpc.aio.StreamStreamCall[Command, engine_pb2.SessionResponse]


class EngineLostError(Exception):
    """The connection is over, without a gRPC status saying why."""


class EngineLink:
    """Keeps a session open with one engine."""

    def __init__(self, address: str, on_change: Callable[[bool], Awaitable[None]]) -> None:
        """`address` is "host:port". `on_change` is told True once there is a session, False without one."""
        self.address = address
        self._on_change = on_change
        self._session: EngineSession | None = None
        self._model: Model | None = None  # outlives the session: the engine may come back with it
        self._problem = "not connected yet"

    @property
    def session(self) -> EngineSession:
        """The open session.

        Raises:
            StatusError: UNAVAILABLE while there is none.
        """
        if self._session is None:
            raise self._unavailable()
        return self._session

    @property
    def model(self) -> Model:
        """What the engine serves.

        Raises:
            StatusError: UNAVAILABLE while there is no session.
        """
        if self._session is None or self._model is None:
            raise self._unavailable()
        return self._model

    async def run(self) -> None:
        """Stay connected until cancelled.

        Raises:
            ModelFilesError: the engine's tokenizer files cannot be served.
        """
        pause = _FIRST_PAUSE_S
        async with grpc.aio.insecure_channel(self.address, options=_CHANNEL_OPTIONS) as channel:
            while True:
                try:
                    await self._serve(channel)
                except grpc.aio.AioRpcError as error:
                    problem = error.details() or error.code().name
                except EngineLostError as error:
                    problem = str(error)
                except asyncio.CancelledError:
                    await self._disconnect("the tokenizer is shutting down")
                    raise
                if problem != self._problem:
                    log.warning("no engine at %s: %s", self.address, problem)
                pause = _FIRST_PAUSE_S if self._session else min(2 * pause, _LONGEST_PAUSE_S)
                await self._disconnect(problem)
                await asyncio.sleep(pause)

    async def _serve(self, channel: grpc.aio.Channel) -> None:
        """One connection, from the first contact until it breaks: always ends with an exception."""
        await _wait_until_serving(channel)
        stub = engine_pb2_grpc.EngineStub(channel)
        self._model = await self._learn(stub)
        session = EngineSession()
        call: Call = stub.Session()
        writer = asyncio.create_task(_write(call, session))
        try:
            await _next(call)
            self._session = session
            log.info("connected to the engine at %s: %s", self.address, self._model.info.served_names[0])
            await self._on_change(True)
            while True:
                session.receive(await _next(call))
        finally:
            writer.cancel()
            call.cancel()

    async def _learn(self, stub: engine_pb2_grpc.EngineAsyncStub) -> Model:
        """The engine's model; the one already loaded when it is still the same engine process."""
        info = await stub.GetModel(engine_pb2.GetModelRequest(), timeout=_ANSWER_TIMEOUT_S)
        known = self._model
        if known is not None and info.instance_id and info.instance_id == known.info.instance_id:
            return known
        files = await fetch_files(stub, _ANSWER_TIMEOUT_S)
        return await asyncio.to_thread(load_model, info, files)

    async def _disconnect(self, problem: str) -> None:
        """Fail what was running, and say that nothing can be submitted."""
        self._problem = problem
        session, self._session = self._session, None
        if session is not None:
            session.fail(self._unavailable())
        await self._on_change(False)

    def _unavailable(self) -> StatusError:
        return unavailable(f"no engine at {self.address}: {self._problem}; try again", RETRY_AFTER_S)


async def _wait_until_serving(channel: grpc.aio.Channel) -> None:
    """Return once the engine is there and its model is loaded, however long that takes."""
    request = health_pb2.HealthCheckRequest(service=ENGINE_SERVICE)
    call = health_pb2_grpc.HealthStub(channel).Watch(request, wait_for_ready=True)
    try:
        async for response in call:
            if response.status == health_pb2.HealthCheckResponse.SERVING:
                return
    finally:
        call.cancel()
    raise EngineLostError("it ended before its model was loaded")


async def _next(call: Call) -> engine_pb2.SessionResponse:
    message = await call.read()
    if isinstance(message, engine_pb2.SessionResponse):
        return message
    raise EngineLostError("it ended the session")


async def _write(call: Call, session: EngineSession) -> None:
    """Send a session's commands in order. A broken call is reported by its reader."""
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while True:
            await call.write(await session.next_command())
