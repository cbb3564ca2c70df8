"""The sessions that a peer is connected to or may come back to.

A session outlives its stream for the grace period that its peer asked for: a stream that resumes it goes on
behind the last step that the peer received, and the count of commands taken in tells the peer which to send
again.
"""

from __future__ import annotations

import asyncio

import grpc

from tokenwire.duplex.served_call import BrokenCallError
from tokenwire.status import StatusError, invalid_argument, not_found
from tokenwire_services.tokenizer.config import TokenizerConfig
from tokenwire_services.tokenizer.engines import Engines
from tokenwire_services.tokenizer.session import Request, Session, Stream

MAX_ID_BYTES = 256


class Sessions:
    """The sessions that a peer is connected to or may come back to."""

    def __init__(self, engines: Engines, config: TokenizerConfig) -> None:
        self._engines = engines
        self._config = config
        self._by_id: dict[str, Session] = {}
        self._ended = asyncio.Event()

    async def end(self) -> None:
        """This process goes away: end every peer's stream, so that its requests go on at another process."""
        self._ended.set()
        streams = [session.stream for session in self._by_id.values() if session.stream is not None]
        if streams:
            await asyncio.wait(streams)

    async def serve(self, call: Stream) -> None:
        """Serve one call from its first message to its end.

        Raises:
            StatusError: the peer breaks the protocol or reads too slowly, or a newer stream takes over.
        """
        opening = await _read_open(call)
        if opening.HasField("resume_after_step"):
            session = self._by_id.get(opening.session_id)
            if session is None or not session.grace_ms:
                raise not_found("session", opening.session_id, "no such session is held; open a new one")
            session.rewind(opening.resume_after_step)
        else:
            if opening.session_id in self._by_id:
                message = "open.session_id: is in use by a session; choose another, or resume it"
                raise StatusError(grpc.StatusCode.ALREADY_EXISTS, message)
            grace_ms = min(opening.grace_period_ms, round(self._config.session_grace_s * 1000))
            session = Session(self._engines, self._config, grace_ms, self._ended)
            self._by_id[opening.session_id] = session
        stream = session.attach(call, opening.resume_after_step)
        is_over = True
        try:
            await asyncio.wait([stream])
            if stream.cancelled():
                is_over = False
                raise StatusError(grpc.StatusCode.ABORTED, "a newer stream resumed the session")
            error = stream.exception()
            if error is not None and not isinstance(error, BrokenCallError):
                raise error
            # A connection that breaks may look like a peer that closed its side: both get the grace period.
            is_over = False
        except asyncio.CancelledError:  # the peer hung up
            is_over = False
            raise
        finally:
            if session.stream is stream:
                stream.cancel()
                if is_over or not session.grace_ms:
                    self._forget(opening.session_id)
                else:
                    later = asyncio.get_running_loop().call_later
                    session.expiry = later(session.grace_ms / 1000, self._forget, opening.session_id)

    def _forget(self, session_id: str) -> None:
        """The session is over, and its requests with it."""
        self._by_id.pop(session_id).close()


async def _read_open(call: Stream) -> Request.Open:
    """The stream's first message, which opens or resumes a session."""
    message = await call.read()
    if message is None or message.WhichOneof("command") != "open":
        raise invalid_argument("open", "missing; a session's first message must be open")
    if not 1 <= len(message.open.session_id.encode()) <= MAX_ID_BYTES:
        problem = f"is empty, or longer than {MAX_ID_BYTES} bytes; expected a random id such as a UUID"
        raise invalid_argument("open.session_id", problem)
    return message.open
