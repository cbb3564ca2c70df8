"""The sessions that a peer is connected to or may come back to.

A session outlives its stream for the grace period that its peer asked for; a stream that resumes it goes on
behind the last step that the peer received, and the count of commands taken in tells the peer which to send
again. So nothing is lost and nothing happens twice, wherever a connection breaks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import grpc

from tokenwire.duplex.served_call import BrokenCallError, ServedCall
from tokenwire.status import StatusError, invalid_argument, not_found

MAX_ID_BYTES = 256


class Opening(Protocol):
    """What opens a session, or resumes it."""

    @property
    def session_id(self) -> str: ...
    @property
    def resume_after_step(self) -> int: ...
    @property
    def grace_period_ms(self) -> int: ...
    def HasField(self, field_name: Literal["resume_after_step"], /) -> bool: ...  # noqa: N802


class Command(Protocol):
    """A peer's message; a stream's first one has the opening."""

    @property
    def open(self) -> Any: ...
    def WhichOneof(self, oneof_group: Literal["command"], /) -> str | None: ...  # noqa: N802


Stream = TypeVar("Stream", bound=ServedCall[Command, Any])
Stream_contra = TypeVar("Stream_contra", bound=ServedCall[Command, Any], contravariant=True)


class Session(Protocol[Stream_contra]):
    """One peer's requests, and what is held of their output, over one stream at a time."""

    def rewind(self, step: int) -> None:
        """Begin the next stream behind a step, which is acknowledged with that.

        Raises:
            StatusError: the peer cannot have received the step, or has acknowledged a later one.
        """

    def attach(self, stream: Stream_contra, after_step: int) -> asyncio.Task[None]:
        """Serve a stream from now on, in the place of an older one; the task that does, and ends with it."""

    def detach(self) -> None:
        """The stream is served no more."""

    def close(self) -> None:
        """Nobody will come back: cancel the requests."""


@dataclass(slots=True)
class _Held(Generic[Stream]):
    session: Session[Stream]
    grace_ms: int
    stream: asyncio.Task[None] | None = None
    """What serves the present stream, or the last one."""
    expiry: asyncio.TimerHandle | None = None
    """What ends the session when no stream resumes it in time."""


class Sessions(Generic[Stream]):
    """The sessions that a peer is connected to or may come back to."""

    def __init__(self, max_grace_ms: int, make: Callable[[int], Session[Stream]]) -> None:
        """
        Args:
            max_grace_ms: the longest grace period that a session gets.
            make: a new session with so long a one.
        """
        self._max_grace_ms = max_grace_ms
        self._make = make
        self._by_id: dict[str, _Held[Stream]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    async def until_streams_end(self) -> None:
        """Return once the streams that there are have ended."""
        streams = [held.stream for held in self._by_id.values() if held.stream is not None]
        if streams:
            await asyncio.wait(streams)

    async def serve(self, stream: Stream) -> None:
        """Serve one call from its first message to its end.

        Raises:
            StatusError: the peer breaks the protocol, a newer stream takes over, or the session failed.
        """
        opening = await _read_open(stream)
        held = self._resume(opening) if opening.HasField("resume_after_step") else self._open(opening)
        if held.expiry is not None:
            held.expiry.cancel()
        serving = held.stream = held.session.attach(stream, opening.resume_after_step)
        has_failed = False
        try:
            await asyncio.wait((serving,))
            if serving.cancelled():
                raise StatusError(grpc.StatusCode.ABORTED, "a newer stream resumed the session")
            error = serving.exception()
            if error is not None and not isinstance(error, BrokenCallError):
                has_failed = True
                raise error
        finally:
            if held.stream is serving:
                held.session.detach()
                # A connection that breaks may look like a peer that closed its side, so both get the
                # grace period.
                if has_failed or not held.grace_ms:
                    self._forget(opening.session_id)
                else:
                    later = asyncio.get_running_loop().call_later
                    held.expiry = later(held.grace_ms / 1000, self._forget, opening.session_id)

    def _open(self, opening: Opening) -> _Held[Stream]:
        if opening.session_id in self._by_id:
            message = "open.session_id: is in use by a session; choose another, or resume it"
            raise StatusError(grpc.StatusCode.ALREADY_EXISTS, message)
        grace_ms = min(opening.grace_period_ms, self._max_grace_ms)
        held = self._by_id[opening.session_id] = _Held(self._make(grace_ms), grace_ms)
        return held

    def _resume(self, opening: Opening) -> _Held[Stream]:
        held = self._by_id.get(opening.session_id)
        if held is None or not held.grace_ms:
            message = "open.session_id: no such session is held; open a new one"
            raise not_found("session", opening.session_id, message)
        held.session.rewind(opening.resume_after_step)
        return held

    def _forget(self, session_id: str) -> None:
        """The session is over, and its requests with it."""
        self._by_id.pop(session_id).session.close()


async def _read_open(stream: ServedCall[Command, Any]) -> Opening:
    """The stream's first message, which opens or resumes a session."""
    command = await stream.read()
    if command is None or command.WhichOneof("command") != "open":
        raise invalid_argument("open", "is missing; a session's first message opens it")
    opening: Opening = command.open
    if not 1 <= len(opening.session_id.encode()) <= MAX_ID_BYTES:
        problem = f"is empty, or longer than {MAX_ID_BYTES} bytes; expected a random id such as a UUID"
        raise invalid_argument("open.session_id", problem)
    return opening
