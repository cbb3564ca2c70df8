"""First come, first served.

Every running request arrived before every waiting one, so one that gives way, which is the youngest of the
running, goes back to the head of the queue. The oldest request always gets its next block, and nobody
starves.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from tokenwire_engine.scheduler.request import Request


class FirstComeFirstServed:
    """The `Policy` of the order of arrival."""

    is_preemptive = False

    def __init__(self) -> None:
        self._waiting: OrderedDict[int, Request] = OrderedDict()

    def add(self, request: Request, ahead: bool) -> None:
        self._waiting[request.arrival] = request
        if ahead:
            self._waiting.move_to_end(request.arrival, last=False)

    def remove(self, request: Request) -> None:
        del self._waiting[request.arrival]

    def first(self) -> Request | None:
        return next(iter(self._waiting.values()), None)

    def rank(self, request: Request) -> int:
        return request.arrival

    def outranks(self, waiting: Request, running: Request) -> bool:
        return False

    def admitted(self, request: Request, num_tokens: int) -> None:
        pass

    def generated(self, requests: Iterable[Request]) -> None:
        pass
