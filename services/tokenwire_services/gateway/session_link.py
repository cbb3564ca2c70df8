"""The connection of one session: resumed whenever its stream breaks.

A session that cannot be resumed, because its process has died, goes on as a new one: its requests are sent
again, with what they have so far, to whichever process answers. Only when none does in time do they fail. New
requests are taken in during an outage if it is brief.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import grpc

from tokenwire.duplex.call import DuplexCall, open_call
from tokenwire.status import StatusError, unavailable
from tokenwire.v1 import tokenizer_pb2
from tokenwire_services.gateway.session import Command, Session
from tokenwire_services.process_address import ProcessAddress

RETRY_AFTER_S = 1.0
SHORTEST_BACK_OFF_S = 0.1
LONGEST_BACK_OFF_S = 2.0
_SESSION = "/tokenwire.v1.Tokenizer/Session"
_FLUSH_TIMEOUT_S = 0.5
_BRIEF_S = 1.0
"""An outage that is over sooner is nobody's business."""
_RESUME_PAUSE_S = 0.02
_MISS_PAUSE_S = 0.002
_MOST_MISSES = 32
"""Processes that may say that they do not have the session before it counts as lost."""
_FATAL = frozenset(
    {
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""What the service ends a session for. Whatever else a stream ends with is taken for a broken connection."""
_LOOK_S, UNHURRIED_LOOK_S = 0.02, 0.5
"""Between two looks whether requests have ended."""
_SILENCE_S = 3.0
"""How long nothing is said of there being no service, which may only just start."""

logger = logging.getLogger(__name__)

Call = DuplexCall[Command, tokenizer_pb2.TokenizerSessionResponse]


class SessionLink:
    """Keeps a session going with the tokenizer service.

    Attributes:
        session: it.
        is_serving: whether it takes new requests.
    """

    def __init__(self, address: ProcessAddress, session: Session, failover_timeout_s: float) -> None:
        """Begin to connect, in the background.

        Args:
            failover_timeout_s: how long requests wait for a process when theirs was lost.
        """
        self.session = session
        self.is_serving = False
        self._address = address.authority
        self._places = address.sessions
        self._failover_timeout_s = failover_timeout_s
        self._opened = asyncio.Event()
        self._is_open = False
        """Whether the latest stream was opened."""
        self._was_open = False
        """Whether any was."""
        self._away = asyncio.Event()
        self._outage: list[asyncio.TimerHandle] = []
        """What will follow from an outage that goes on: no new requests, then no old ones."""
        self._closing = False
        self._keeper = asyncio.create_task(self._keep_open())

    async def wait_open(self) -> None:
        """Return once the session is open."""
        await self._opened.wait()

    async def wait_away(self) -> None:
        """Return once the session is elsewhere than at the process that is preferred."""
        await self._away.wait()

    @property
    def is_away(self) -> bool:
        """Whether it is."""
        return self._away.is_set()

    async def drain(self, grace_s: float | None = None) -> None:
        """Return once all requests have ended; after `grace_s` seconds in any case."""
        loop = asyncio.get_running_loop()
        deadline = None if grace_s is None else loop.time() + grace_s
        while self.session.num_live:
            if deadline is not None and loop.time() >= deadline:
                return
            await asyncio.sleep(UNHURRIED_LOOK_S if deadline is None else _LOOK_S)

    async def close(self, error: StatusError) -> None:
        """End what is left of the requests with an error, and the session."""
        self._closing = True
        # The session ends by itself once the tokenizer was told what to cancel.
        self.session.close(error)
        if self._is_open:
            await asyncio.wait({self._keeper}, timeout=_FLUSH_TIMEOUT_S)
        self._keeper.cancel()
        await asyncio.wait({self._keeper})
        self._end_outage()

    async def _keep_open(self) -> None:
        """One session after another, over as many streams as each takes."""
        session, back_off_s = self.session, SHORTEST_BACK_OFF_S
        while True:
            reason, is_fatal = await self._keep_going(session)
            if self._closing:
                return
            logger.warning("lost the tokenizer service at %s: %s", self._address, reason)
            if is_fatal:
                session.fail(self._broke())
            back_off_s = min(2 * back_off_s, LONGEST_BACK_OFF_S)
            if session.was_opened:
                back_off_s = SHORTEST_BACK_OFF_S
                session.move()
            await asyncio.sleep(back_off_s)

    async def _keep_going(self, session: Session) -> tuple[str, bool]:
        """One session over as many streams as it takes, until it is lost.

        Returns:
            Why that is, and whether its requests are lost with it.
        """
        loop = asyncio.get_running_loop()
        give_up_at, misses, is_fatal = None, 0, False
        while True:
            self._is_open = False
            try:
                await self._run(session, give_up_at)
                reason = "it ended the session"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
                if error.code() is grpc.StatusCode.NOT_FOUND:  # maybe another process of the service has it
                    misses += 1
                is_fatal = error.code() in _FATAL
            except TimeoutError:
                return "it cannot be reached", False
            except Exception as error:  # a peer that breaks the protocol must not end the link
                logger.exception("the session with the tokenizer service failed")
                reason, is_fatal = repr(error), True
            if self._is_open and not self._closing:
                self._begin_outage(reason)
                misses, give_up_at = 0, loop.time() + session.grace_s
            if self._closing or is_fatal or not session.grace_s or misses > _MOST_MISSES:
                return reason, is_fatal
            await asyncio.sleep(_MISS_PAUSE_S if misses else _RESUME_PAUSE_S)

    def _begin_outage(self, reason: str) -> None:
        logger.warning("the stream to the tokenizer service at %s broke: %s", self._address, reason)
        self._opened.clear()
        later = asyncio.get_running_loop().call_later
        self._outage = [
            later(min(_BRIEF_S, self._failover_timeout_s), self._refuse_requests),
            later(self._failover_timeout_s, self._give_up),
        ]

    def _refuse_requests(self) -> None:
        """The outage is no longer brief."""
        self.is_serving = False

    def _give_up(self) -> None:
        """No process came in time."""
        self.session.fail(self._broke())

    def _broke(self) -> StatusError:
        message = f"the connection to the tokenizer service at {self._address} broke; try again"
        return unavailable(message, RETRY_AFTER_S)

    async def _run(self, session: Session, give_up_at: float | None) -> None:
        """One stream, from its opening to its end.

        Raises:
            TimeoutError: it was not open by `give_up_at`, in the event loop's time.
        """
        call: Call | None = None
        writer: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout_at(give_up_at):
                place, call = await self._connect()
                # A stream that is refused breaks under the write; reading says why.
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await call.write(session.opening())
                message = await call.read()
            if not isinstance(message, tokenizer_pb2.TokenizerSessionResponse):
                return
            session.opened(message.opened)
            self._now_open(place)
            writer = asyncio.create_task(_write(call, session))
            await call.each(session.deliver)
        finally:
            if writer is not None:
                writer.cancel()
            if call is not None:
                call.cancel()

    async def _connect(self) -> tuple[str, Call]:
        """A stream at whichever process answers first, however long that takes, and where that is; to begin
        with, the process that is preferred gets a moment to start."""
        back_off_s = SHORTEST_BACK_OFF_S
        loop = asyncio.get_running_loop()
        silent_until, said = loop.time() + _SILENCE_S, ""
        while True:
            is_starting = not self._was_open and loop.time() < silent_until
            for place in self._places[: 1 if is_starting else None]:
                try:
                    return place, await open_call(
                        place,
                        _SESSION,
                        tokenizer_pb2.TokenizerSessionRequest,
                        tokenizer_pb2.TokenizerSessionResponse,
                    )
                except grpc.aio.AioRpcError as error:
                    reason = error.details() or error.code().name
            if reason != said and loop.time() >= silent_until:
                logger.warning("no tokenizer service at %s: %s", self._address, reason)
                said = reason
            await asyncio.sleep(back_off_s)
            back_off_s = min(2 * back_off_s, LONGEST_BACK_OFF_S)

    def _now_open(self, place: str) -> None:
        self._end_outage()
        logger.info("connected to the tokenizer service at %s", self._address)
        self._is_open = self._was_open = self.is_serving = True
        self._opened.set()
        if place == self._places[0]:
            self._away.clear()
        else:
            self._away.set()

    def _end_outage(self) -> None:
        for timer in self._outage:
            timer.cancel()


async def _write(call: Call, session: Session) -> None:
    """Send a session's commands in order. A broken call is reported by its reader."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        while (command := await session.next_command()) is not None:
            await call.write(command)
        await call.done_writing()
