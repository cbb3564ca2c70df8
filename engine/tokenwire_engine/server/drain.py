"""Coming to an end with the requests: none is admitted, those there are go on for a while, the rest is handed
back to whoever asked for them.

A request that is handed back loses nothing: its tokens were delivered, and with them its caller continues it
elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import grpc

from tokenwire.status import StatusError
from tokenwire_engine.server.dispatch import Dispatcher

FLUSH_S = 2.0
"""How long peers may take to read what was produced for them."""


@dataclass(slots=True, frozen=True)
class DrainReport:
    """What became of the requests since the engine began to drain."""

    num_finished: int
    """Ended by themselves, or were cancelled."""
    num_handed_back: int
    seconds: float


class Drainer:
    """Drains an engine, and undoes it. On the asyncio thread."""

    def __init__(self, dispatcher: Dispatcher, on_change: Callable[[bool], Awaitable[None]]) -> None:
        """`on_change` is told False when the engine stops admitting requests, True when it does so again."""
        self._dispatcher = dispatcher
        self._on_change = on_change
        self._draining: asyncio.Task[DrainReport] | None = None
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def is_draining(self) -> bool:
        """Whether no requests are admitted, be it that some are left or not."""
        return self._draining is not None

    async def drain(self, timeout_s: float | None) -> DrainReport:
        """Stop admitting, and return when no request is left. It goes on when this call is cancelled.

        Args:
            timeout_s: how long requests may go on before they are handed back; replaces that of an earlier
                call. None: until they end.

        Raises:
            StatusError: ABORTED when `undrain` came first, another when the engine failed.
        """
        if self._draining is None:
            self._dispatcher.stop_admitting()
            self._draining = asyncio.create_task(self._until_drained())
            self._draining.add_done_callback(_retrieve)
            await self._on_change(False)
        if self._deadline is not None:
            self._deadline.cancel()
        if timeout_s is not None:
            later = asyncio.get_running_loop().call_later
            self._deadline = later(timeout_s, self._dispatcher.hand_back)
        draining = self._draining
        await asyncio.wait((draining,))
        if draining.cancelled():
            raise StatusError(grpc.StatusCode.ABORTED, "the engine admits requests again")
        return draining.result()

    async def undrain(self) -> bool:
        """Admit requests again. Whether the engine was draining, or had drained."""
        if self._draining is None:
            return False
        if self._deadline is not None:
            self._deadline.cancel()
        self._draining.cancel()
        self._draining = None
        self._dispatcher.admit()
        await self._on_change(True)
        return True

    async def _until_drained(self) -> DrainReport:
        started_s = time.monotonic()
        dispatcher = self._dispatcher
        num_ended, num_handed_back = dispatcher.num_ended, dispatcher.num_handed_back
        await dispatcher.until_idle()
        try:
            async with asyncio.timeout(FLUSH_S):
                while not dispatcher.is_flushed:  # noqa: ASYNC110 - every peer has its own event
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pass  # who does not read finds out from the broken connection
        num_handed_back = dispatcher.num_handed_back - num_handed_back
        num_finished = dispatcher.num_ended - num_ended - num_handed_back
        return DrainReport(num_finished, num_handed_back, time.monotonic() - started_s)


def _retrieve(task: asyncio.Task[DrainReport]) -> None:
    """Perhaps nobody waits for it any more; asyncio need not complain of its error then."""
    if not task.cancelled():
        task.exception()
