"""The sessions that a peer is connected to or may come back to.

A session outlives its stream for the grace period that its peer asked for; a stream that resumes it goes on
behind the last step that the peer received, and the count of commands taken in tells the peer which to send
again. So nothing is lost and nothing happens twice, wherever a connection breaks.
"""

from __future__ import annotations

import asyncio

import grpc

from tokenwire.duplex.served_call import BrokenCallError
from tokenwire.status import StatusError, invalid_argument, not_found
from tokenwire.v1 import engine_pb2
from tokenwire_engine.server.dispatch import Dispatcher
from tokenwire_engine.server.model import ServedModel
from tokenwire_engine.server.session import Session, Stream

MAX_ID_BYTES = 256
Open = engine_pb2.SessionRequest.Open


class Sessions:
    """The sessions that a peer is connected to or may come back to."""

    def __init__(self, max_grace_ms: int) -> None:
        """`max_grace_ms`: the longest grace period that a session gets."""
        self._max_grace_ms = max_grace_ms
        self._by_id: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    async def serve(self, stream: Stream, model: ServedModel, dispatcher: Dispatcher) -> None:
        """Serve one call from its first message to its end.

        Raises:
            StatusError: when the peer breaks the protocol, a newer stream takes over, or the engine stops.
        """
        opening = await _read_open(stream)
        if opening.HasField("resume_after_step"):
            session = self._resume(opening)
        else:
            session = self._open(opening, model, dispatcher)
        writer = session.attach(stream, opening.resume_after_step)
        has_failed = False
        try:
            await asyncio.wait((writer,))
            if writer.cancelled():
                raise StatusError(grpc.StatusCode.ABORTED, "a newer stream resumed the session")
            error = writer.exception()
            if error is not None and not isinstance(error, BrokenCallError):
                has_failed = True
                raise error
        finally:
            if session.writer is writer:
                session.detach()
                # A connection that breaks may look like a peer that closed its side, so both get the
                # grace period.
                if has_failed or not session.grace_ms:
                    self._forget(session)
                else:
                    later = asyncio.get_running_loop().call_later
                    session.expiry = later(session.grace_ms / 1000, self._forget, session)

    def _open(self, opening: Open, model: ServedModel, dispatcher: Dispatcher) -> Session:
        if opening.session_id in self._by_id:
            raise StatusError(
                grpc.StatusCode.ALREADY_EXISTS,
                "open.session_id: is in use by a session; choose another, or resume it",
            )
        grace_ms = min(opening.grace_period_ms, self._max_grace_ms)
        session = Session(opening.session_id, grace_ms, model, dispatcher)
        self._by_id[session.id] = session
        return session

    def _resume(self, opening: Open) -> Session:
        session = self._by_id.get(opening.session_id)
        if session is None or not session.grace_ms:
            raise not_found(
                "session", opening.session_id, "open.session_id: no such session is held; open a new one"
            )
        try:
            session.outbox.rewind(opening.resume_after_step)
        except ValueError as error:
            raise invalid_argument("open.resume_after_step", str(error)) from None
        return session

    def _forget(self, session: Session) -> None:
        """The session is over, and its requests with it."""
        del self._by_id[session.id]
        session.close()


async def _read_open(stream: Stream) -> Open:
    """The stream's first message, which opens or resumes a session."""
    command = await stream.read()
    if command is None or command.WhichOneof("command") != "open":
        raise invalid_argument("open", "is missing; a session's first message opens it")
    if not 1 <= len(command.open.session_id.encode()) <= MAX_ID_BYTES:
        problem = f"is empty, or longer than {MAX_ID_BYTES} bytes; expected a random id such as a UUID"
        raise invalid_argument("open.session_id", problem)
    return command.open
