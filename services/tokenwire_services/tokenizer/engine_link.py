"""The connection to an engine, kept for as long as this process lives.

The link waits for the engine, learns its model, and connects again for ever when the connection breaks or the
engine is lost. The requests of its one session go on as soon as there is a connection again, at the same
engine or at another process with the same model, unless they are taken to another link first; only when none
comes in time do they fail. New requests are taken in meanwhile if the outage is brief. An engine that drains
is such an outage, too, though requests that it still computes go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Protocol

import grpc

from tokenwire.channel import DIRECT
from tokenwire.status import unavailable
from tokenwire.v1 import engine_pb2, engine_pb2_grpc
from tokenwire_services.process_address import ProcessAddress
from tokenwire_services.tokenizer.engine_call import (
    EngineLostError,
    each_response,
    open_session,
    send_commands,
)
from tokenwire_services.tokenizer.engine_health import until_serving, watch_health
from tokenwire_services.tokenizer.engine_model import EngineModel, Meeting
from tokenwire_services.tokenizer.engine_request import EngineRequest
from tokenwire_services.tokenizer.engine_session import Counts, EngineSession
from tokenwire_services.tokenizer.kv_view import KvView
from tokenwire_services.tokenizer.load_view import LoadView
from tokenwire_services.tokenizer.model import Model, ModelFilesError
from tokenwire_services.tokenizer.outage import Outage

log = logging.getLogger(__name__)

RETRY_AFTER_S = 1.0
"""What callers are told to wait while the engine is away."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
"""Pauses between attempts to connect; they double from the first to the longest."""
_REFUSED_PAUSE_S = 5.0
"""Before an engine that was refused is looked at again."""
_LEAVE_S = 0.3
"""For the engine to hear that this process goes away."""
_CHANNEL_OPTIONS = (
    DIRECT,
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 64 << 20),
    # An engine whose host vanished without a word is noticed.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class EngineRefusedError(EngineLostError):
    """The engine is there, but cannot be one of those behind this service."""


class LinkOwner(Protocol):
    """Who has a link, and is told of it."""

    def find_model(self, digest: bytes) -> Model | None:
        """A model with this fingerprint that was loaded before, for another link."""

    def check(self, link: EngineLink, model: Model) -> None:
        """The link is about to serve a model.

        Raises:
            EngineRefusedError: it must not.
        """

    async def changed(self, link: EngineLink) -> None:
        """The link serves from now on, or does so no more."""

    def connected(self, link: EngineLink) -> None:
        """There is an engine that admits requests."""

    def stranded(self, link: EngineLink) -> None:
        """Requests of the link have no engine."""


class EngineLink:
    """Keeps a session going with one engine.

    Attributes:
        address: "host:port".
        blocks: what the engine's prefix cache holds; empty unless the link is one of several.
        load: how busy it is.
    """

    def __init__(
        self, address: ProcessAddress, owner: LinkOwner, failover_timeout_s: float, is_watched: bool
    ) -> None:
        """`failover_timeout_s`: how long requests wait for an engine that was lost.
        `is_watched`: whether anybody wants to know how busy the engine is, and what it has cached."""
        self.address = address.authority
        (self._session_address,) = address.sessions
        self._owner = owner
        self._is_watched = is_watched
        self._session = EngineSession(grace_ms=round(failover_timeout_s * 1000))
        self.blocks = KvView()
        self.load = LoadView(self._session.counts)
        self._model = EngineModel(owner.find_model, lambda model: owner.check(self, model))
        self._is_serving = False
        self._is_connected = False
        self._outage = Outage(self.address, failover_timeout_s, self)

    @property
    def is_connected(self) -> bool:
        """Whether there is an engine at the other end right now."""
        return self._is_connected

    @property
    def is_serving(self) -> bool:
        """Whether requests are taken in: there is an engine, or there was one a moment ago."""
        return self._is_serving

    @property
    def is_admitting(self) -> bool:
        """Whether there is an engine right now, and it does not drain."""
        return self._is_connected and not self._outage.is_on

    @property
    def has_stranded(self) -> bool:
        """Whether requests wait for an engine."""
        return self._session.has_handed_back or (self._outage.is_lost and self._session.has_requests)

    @property
    def problem(self) -> str:
        """Why there is no engine."""
        return self._outage.problem

    @property
    def counts(self) -> Counts:
        """What went over this link."""
        return self._session.counts

    @property
    def session(self) -> EngineSession:
        """Where requests are submitted."""
        return self._session

    @property
    def model(self) -> Model | None:
        """What the engine serves, or served last."""
        return self._model.last

    @property
    def claimed_model(self) -> Model | None:
        """What the engine serves, if it is there."""
        return self._model.last if self._model.is_there else None

    def take_stranded(self) -> list[EngineRequest]:
        """Give away the requests that wait for an engine."""
        return self._session.take_all() if self._outage.is_lost else self._session.take_handed_back()

    async def run(self) -> None:
        """Stay connected until cancelled.

        Raises:
            ModelFilesError: the engine's tokenizer files cannot be served.
        """
        pause = _FIRST_PAUSE_S
        async with grpc.aio.insecure_channel(self.address, options=_CHANNEL_OPTIONS) as channel:
            while True:
                is_refused = False
                try:
                    await self._serve(channel)
                except grpc.aio.AioRpcError as error:
                    problem = error.details() or error.code().name
                except EngineLostError as error:
                    problem = str(error)
                    is_refused = isinstance(error, EngineRefusedError)
                except ModelFilesError:
                    raise
                except Exception as error:  # an engine that breaks the protocol must not end the service
                    log.exception("the session with the engine at %s failed", self.address)
                    problem = repr(error)
                    self._session.move()
                pause = _FIRST_PAUSE_S if self._is_connected else min(2 * pause, _LONGEST_PAUSE_S)
                self._disconnected(problem)
                await asyncio.sleep(_REFUSED_PAUSE_S if is_refused else pause)

    async def leave(self) -> None:
        """End all requests, at the engine too, and take no more; `run` goes on until it is cancelled."""
        self._is_serving = False
        reason = "the tokenizer is shutting down"
        self._session.cancel_all(unavailable(f"{reason}; try again", RETRY_AFTER_S))
        self._outage.end(reason)
        if self._is_connected:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._session.idle(), _LEAVE_S)

    async def _serve(self, channel: grpc.aio.Channel) -> None:
        """One connection, from the first contact until it breaks: always ends with an exception."""
        if not await until_serving(channel, self._outage.begin):
            raise EngineLostError("it ended before its model was loaded")
        stub = engine_pb2_grpc.EngineStub(channel)
        match await self._model.meet(stub):
            case Meeting.SAME_MODEL:
                self._session.move()
            case Meeting.OTHER_MODEL:
                reason = f"the engine at {self.address} was replaced by one with another model"
                self._session.abandon(unavailable(reason, 0.0))
        call = await open_session(self._session_address, self._session)
        tasks: list[asyncio.Task[None]] = []

        def begin(work: Coroutine[None, None, None]) -> asyncio.Task[None]:
            task = asyncio.create_task(work)
            tasks.append(task)
            return task

        try:
            begin(send_commands(call, self._session))
            if self._is_watched:
                begin(self.blocks.follow(stub))
                begin(self.load.follow(stub))
            await self._connected()
            follower = begin(self._follow_health(channel))

            def receive(message: engine_pb2.SessionResponse) -> None:
                nonlocal follower
                if self._session.receive(message):
                    self._outage.wait_for_engine()
                    self._owner.stranded(self)
                    # Looks again: it may have heard of the drain's beginning, or end, before or after this.
                    follower.cancel()
                    tasks.remove(follower)
                    follower = begin(self._follow_health(channel))

            await each_response(call, receive)
        finally:
            for task in tasks:
                task.cancel()
            call.cancel()

    async def _follow_health(self, channel: grpc.aio.Channel) -> None:
        """Learn when the engine stops admitting requests, and when it does so again. A broken connection is
        reported by the session's reader."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            async with contextlib.aclosing(watch_health(channel)) as watching:
                async for is_serving in watching:
                    if not is_serving:
                        self._outage.begin("it is draining")
                    elif self._outage.is_on or self._session.has_handed_back:
                        self._session.submit_again()
                        await self._connected()

    async def _connected(self) -> None:
        self._outage.end()
        assert self._model.last is not None
        log.info("connected to the engine at %s: %s", self.address, self._model.last.info.served_names[0])
        self._is_connected = True
        if not self._is_serving:
            self._is_serving = True
            await self._owner.changed(self)
        self._owner.connected(self)

    def _disconnected(self, problem: str) -> None:
        was_connected, self._is_connected = self._is_connected, False
        self._model.is_there = False
        self._outage.begin(problem)
        if was_connected:
            self._outage.wait_for_engine()
            self._outage.wait_for_connection()

    # What follows from an outage.

    async def is_out(self) -> None:
        """Take in no more requests."""
        self._is_serving = False
        await self._owner.changed(self)

    def lose(self) -> None:
        """Let the requests be taken to another engine."""
        self._owner.stranded(self)

    def give_up(self) -> None:
        """Fail the requests that no engine computes."""
        error = unavailable(f"no engine at {self.address}: {self.problem}; try again", RETRY_AFTER_S)
        if self._is_connected:  # to an engine that drains, and may still compute some
            self._session.fail_handed_back(error)
        else:
            self._session.abandon(error)
