"""The time without an engine, and what follows when it lasts: each stage at its time, unless it ends first.

A connection that was only cut is back before anybody is told. Past that the engine is held to be lost, and
its requests may go to another. An outage that is not brief closes the door to new requests. When requests
have waited for an engine long enough, they fail.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

log = logging.getLogger(__name__)

_LOST_S = 0.2
"""A connection that was only cut is back sooner; past it the engine is held to be lost."""
_BRIEF_S = 1.0
"""An outage that is over sooner is nobody else's business."""


class Sufferer(Protocol):
    """Who has an outage, and is told of its stages."""

    async def is_out(self) -> None:
        """The outage is not brief."""

    def lose(self) -> None:
        """The engine is lost."""

    def give_up(self) -> None:
        """Requests have waited long enough for an engine."""


class Outage:
    """Begins and ends any number of times.

    Attributes:
        problem: why there is no engine; empty while there is one.
        is_lost: whether the engine is held to be lost.
    """

    def __init__(self, address: str, failover_timeout_s: float, sufferer: Sufferer) -> None:
        """`failover_timeout_s`: how long requests wait for an engine that was lost."""
        self._address = address
        self._failover_timeout_s = failover_timeout_s
        self._sufferer = sufferer
        self.problem = "not connected yet"
        self.is_lost = False
        self._lasting: asyncio.Task[None] | None = None
        self._loss: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None

    @property
    def is_on(self) -> bool:
        return self._lasting is not None

    def begin(self, problem: str) -> None:
        """There is no engine, or none that admits requests; if that is known already, perhaps for another
        reason."""
        if problem != self.problem:
            log.warning("no engine at %s: %s", self._address, problem)
        self.problem = problem
        if self._lasting is None:
            self._lasting = asyncio.create_task(self._last())

    def wait_for_connection(self) -> None:
        """The connection broke just now."""
        self._loss = asyncio.get_running_loop().call_later(_LOST_S, self._lose)

    def wait_for_engine(self) -> None:
        """Some requests have no engine just now, and get the time that they may wait for one."""
        if self._expiry is not None:
            self._expiry.cancel()
        later = asyncio.get_running_loop().call_later
        self._expiry = later(self._failover_timeout_s, self._sufferer.give_up)

    def end(self, problem: str = "") -> None:
        """There is an engine that admits requests; or none is wanted any more, for this reason."""
        self.problem = problem
        self.is_lost = False
        for pending in (self._lasting, self._loss, self._expiry):
            if pending is not None:
                pending.cancel()
        self._lasting = self._loss = self._expiry = None

    async def _last(self) -> None:
        await asyncio.sleep(min(_BRIEF_S, self._failover_timeout_s))
        await self._sufferer.is_out()

    def _lose(self) -> None:
        self.is_lost = True
        self._sufferer.lose()
