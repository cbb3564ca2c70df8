"""A call with streams in both directions, as the method that serves it sees it, whoever carries it.

There are two of them: `LibraryCall`, which the gRPC library serves, and the call of `server.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import grpc

from tokenwire.status import StatusError

Received = TypeVar("Received")
Received_co = TypeVar("Received_co", covariant=True)
Sent = TypeVar("Sent")
Sent_contra = TypeVar("Sent_contra", contravariant=True)


class BrokenCallError(Exception):
    """The peer has given the call up, or its connection broke."""


class ServedCall(Protocol[Received_co, Sent_contra]):
    """One call, read and written by one task each.

    Its method ends it: well, or by raising a StatusError. A peer that hangs up has the method cancelled.
    """

    async def read(self) -> Received_co | None:
        """The peer's next message; None once it has said that there are no more, or perhaps is gone.

        Raises:
            StatusError: the message cannot be decoded.
            BrokenCallError: none will come.
        """

    async def each(self, take: Callable[[Received_co], None]) -> None:
        """Have every further message taken as it comes, until the peer has said that there are no more.

        Raises:
            Exception: as `read`, or what `take` raised; nothing more is taken then.
        """

    async def write(self, message: Sent_contra) -> None:
        """Send a message, once the peer takes it.

        Raises:
            BrokenCallError: the peer is gone.
        """


class LibraryCall(Generic[Received, Sent]):
    """A call that the gRPC library serves, as a `ServedCall`."""

    def __init__(self, context: grpc.aio.ServicerContext[Received, Sent]) -> None:
        self._context = context

    async def read(self) -> Received | None:
        """See `ServedCall`."""
        try:
            message = await self._context.read()
        except StatusError:
            raise
        except Exception as error:  # the library raises what it finds, its internal errors too
            raise BrokenCallError from error
        return None if message is grpc.aio.EOF else message

    async def each(self, take: Callable[[Received], None]) -> None:
        """See `ServedCall`."""
        while (message := await self.read()) is not None:
            take(message)

    async def write(self, message: Sent) -> None:
        """See `ServedCall`."""
        try:
            await self._context.write(message)
        except Exception as error:
            raise BrokenCallError from error
