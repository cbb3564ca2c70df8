"""The one connection to an engine: all requests of this process share one session with it.

The link connects, learns the model, and reconnects for ever when the engine is lost. A request belongs to
one connection: when that breaks, the request fails with UNAVAILABLE. A slot is reused only after the
engine's finish event for it, so tokens of a cancelled request never reach the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tokenwire.status import StatusError, unavailable
from tokenwire.v1 import engine_pb2, engine_pb2_grpc
from tokenwire_services.tokenizer.generation import Generation
from tokenwire_services.tokenizer.model import Model, fetch_files, load_model

log = logging.getLogger(__name__)

ENGINE_SERVICE = "tokenwire.v1.Engine"
RETRY_AFTER_S = 1.0
"""What callers are told to wait while the engine is away."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
"""Pauses between attempts to connect; they double from the first to the longest."""
_ACK_EVERY = 16
"""Engine messages between acknowledgements: the engine keeps that many."""
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

SessionCall = grpc.aio.StreamStreamCall[engine_pb2.SessionRequest, engine_pb2.SessionResponse]


class EngineLostError(Exception):
    """The connection is over, without a gRPC status saying why."""


class EngineLink:
    """Keeps the connection, submits requests and routes their tokens.

    Attributes:
        address: the engine's "host:port".
        model: what the engine serves; None while there is no session.
    """

    def __init__(self, address: str, on_change: Callable[[bool], Awaitable[None]]) -> None:
        """`on_change` is told True once requests can be submitted, False when they no longer can."""
        self.address = address
        self.model: Model | None = None
        self._on_change = on_change
        self._loaded: Model | None = None
        self._problem = "not connected yet"
        self._unacknowledged = 0
        self._reset()

    def require_model(self) -> Model:
        """The model.

        Raises:
            StatusError: UNAVAILABLE, while there is no session with an engine.
        """
        if self.model is None:
            raise self._unavailable()
        return self.model

    def submit(self, request: engine_pb2.GenerateRequest, generation: Generation) -> int:
        """Start a request whose output goes to `generation`; returns the engine slot to cancel it by.

        Raises:
            StatusError: UNAVAILABLE, while there is no session with an engine.
        """
        self.require_model()
        slot = self._free_slots.pop() if self._free_slots else len(self._live) + len(self._ending)
        self._live[slot] = generation
        submit = engine_pb2.SessionRequest.Submit(slot=slot, request=request)
        self._send(engine_pb2.SessionRequest(submit=submit))
        return slot

    def cancel(self, slot: int, generation: Generation) -> None:
        """Route nothing more to `generation` and have the engine end it; harmless when it has ended."""
        if self._live.get(slot) is generation:
            del self._live[slot]
            self._ending.add(slot)
            self._send(engine_pb2.SessionRequest(cancel=engine_pb2.SessionRequest.Cancel(slot=slot)))

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
                    await self._disconnected("the tokenizer is shutting down")
                    raise
                pause = _FIRST_PAUSE_S if self.model else min(2 * pause, _LONGEST_PAUSE_S)
                await self._disconnected(problem)
                await asyncio.sleep(pause)

    async def _serve(self, channel: grpc.aio.Channel) -> None:
        """One connection, from the first contact until it breaks: always ends with an exception."""
        await _wait_until_serving(channel)
        stub = engine_pb2_grpc.EngineStub(channel)
        self._loaded = await self._learn(stub)
        call: SessionCall = stub.Session()
        writer = asyncio.create_task(self._write(call))
        try:
            opening = engine_pb2.SessionRequest.Open(session_id=str(uuid.uuid4()))
            self._send(engine_pb2.SessionRequest(open=opening))
            await _next(call)
            self.model = self._loaded
            log.info("connected to the engine at %s: %s", self.address, self.model.info.served_names[0])
            await self._on_change(True)
            while True:
                self._receive(await _next(call))
        finally:
            writer.cancel()
            call.cancel()

    async def _learn(self, stub: engine_pb2_grpc.EngineAsyncStub) -> Model:
        """The engine's model; the one already loaded when it is still the same engine process."""
        info = await stub.GetModel(engine_pb2.GetModelRequest(), timeout=_ANSWER_TIMEOUT_S)
        loaded = self._loaded
        if loaded is not None and info.instance_id and info.instance_id == loaded.info.instance_id:
            return loaded
        files = await fetch_files(stub, _ANSWER_TIMEOUT_S)
        return await asyncio.to_thread(load_model, info, files)

    async def _disconnected(self, problem: str) -> None:
        """Fail what was running, and say so."""
        if problem != self._problem:
            log.warning("no engine at %s: %s", self.address, problem)
        self._problem = problem
        self.model = None
        lost = list(self._live.values())
        self._reset()
        for generation in lost:
            generation.fail(self._unavailable())
        await self._on_change(False)

    def _receive(self, message: engine_pb2.SessionResponse) -> None:
        """Route one engine step's output."""
        live = self._live
        for event in message.finished:
            if event.HasField("stop_token_id") and event.slot in live:
                live[event.slot].expect_stop(event.stop_token_id)
        for slot, token_id in zip(message.slots, message.token_ids, strict=True):
            generation = live.get(slot)
            if generation is None:
                continue
            try:
                generation.push(token_id)
            except Exception:
                log.exception("request in slot %d failed on token %d", slot, token_id)
                generation.fail(StatusError(grpc.StatusCode.INTERNAL, f"token {token_id} cannot be decoded"))
            if generation.finished:
                self.cancel(slot, generation)
        for event in message.finished:
            self._finish(event)
        self._unacknowledged += 1
        if self._unacknowledged >= _ACK_EVERY:
            self._unacknowledged = 0
            self._send(engine_pb2.SessionRequest(ack=engine_pb2.SessionRequest.Ack(step=message.step)))

    def _finish(self, event: engine_pb2.SessionResponse.FinishEvent) -> None:
        generation = self._live.pop(event.slot, None)
        if generation is not None:
            if event.HasField("error"):
                generation.fail(StatusError.from_proto(event.error))
            else:
                generation.end(event)
        elif event.slot in self._ending:
            self._ending.remove(event.slot)
        else:
            return
        self._free_slots.append(event.slot)

    def _send(self, command: engine_pb2.SessionRequest) -> None:
        self._commands.append(command)
        self._has_commands.set()

    async def _write(self, call: SessionCall) -> None:
        """Send commands in order; when the call breaks, its reader says so."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await self._has_commands.wait()
                self._has_commands.clear()
                while self._commands:
                    await call.write(self._commands.popleft())

    def _reset(self) -> None:
        """Begin with a session in which nothing happened yet."""
        self._live: dict[int, Generation] = {}
        self._ending: set[int] = set()  # cancelled, the engine's finish event is on its way
        self._free_slots: list[int] = []
        self._commands: deque[engine_pb2.SessionRequest] = deque()
        self._has_commands = asyncio.Event()
        self._unacknowledged = 0

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


async def _next(call: SessionCall) -> engine_pb2.SessionResponse:
    message = await call.read()
    if isinstance(message, engine_pb2.SessionResponse):
        return message
    raise EngineLostError("it ended the session")
