"""What the scheduler tells whoever measures: a few calls a step, each for all requests that it concerns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tokenwire_engine.scheduler.request import FinishReason, Request


class Observer(Protocol):
    """Hears of requests on their way. Times are by the scheduler's clock."""

    def planned(self, num_requests: int, num_tokens: int) -> None:
        """A step computes so many tokens of so many requests."""

    def admitted(self, request: Request, now_s: float) -> None:
        """A request runs for the first time."""

    def generated(self, requests: Sequence[Request], now_s: float) -> None:
        """Each of these requests is about to get a token."""

    def finished(self, request: Request, reason: FinishReason, now_s: float) -> None:
        """A request has ended."""
