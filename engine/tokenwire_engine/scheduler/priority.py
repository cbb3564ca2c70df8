"""Lower priority values first, with ageing.

A request does not wait for those of a lesser priority that came after it in this order: they give way, and go
on later from what the prefix cache has kept.

Waiting makes up for priority: one level for each `AGEING_S` seconds. Since all requests age alike, whether
one comes before another never changes, so the order is that of a key fixed at arrival:
arrival time + priority * AGEING_S. Nobody starves: no request that arrives more than
(highest priority - lowest priority) * AGEING_S later can come first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from tokenwire_engine.scheduler.request import Request

AGEING_S = 5.0
"""Seconds of waiting that make up for one level."""

Rank = tuple[float, int]


class Priority:
    """The `Policy` of the requests' own priorities."""

    is_preemptive = True

    def __init__(self) -> None:
        self._heap: list[tuple[Rank, Request]] = []
        """The waiting requests, and some that are not waiting any more."""
        self._in_heap: set[int] = set()
        """Their arrival numbers."""
        self._waiting: set[int] = set()
        """The arrival numbers of those that wait."""

    def add(self, request: Request, ahead: bool) -> None:
        self._waiting.add(request.arrival)
        if request.arrival not in self._in_heap:
            self._in_heap.add(request.arrival)
            heapq.heappush(self._heap, (self.rank(request), request))

    def remove(self, request: Request) -> None:
        self._waiting.remove(request.arrival)
        while self._heap and self._heap[0][1].arrival not in self._waiting:
            self._in_heap.remove(heapq.heappop(self._heap)[1].arrival)

    def first(self) -> Request | None:
        return self._heap[0][1] if self._heap else None

    def rank(self, request: Request) -> Rank:
        return request.arrival_s + request.priority * AGEING_S, request.arrival

    def outranks(self, waiting: Request, running: Request) -> bool:
        return waiting.priority < running.priority and self.rank(waiting) < self.rank(running)

    def admitted(self, request: Request, num_tokens: int) -> None:
        pass

    def generated(self, requests: Iterable[Request]) -> None:
        pass
