"""Which requests have run out of time. A request that ends early leaves at most its place in the heap, and
those places are swept before they outnumber the live ones."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from tokenwire_engine.scheduler.request import Request


class Deadlines:
    """The live requests that have a deadline."""

    def __init__(self) -> None:
        self._live: dict[int, Request] = {}
        """By arrival number."""
        self._heap: list[tuple[float, int]] = []
        """Deadline and arrival number, those of ended requests too."""

    def add(self, request: Request) -> None:
        """Watch a request, if it has a deadline."""
        if request.deadline_s is not None:
            self._live[request.arrival] = request
            heapq.heappush(self._heap, (request.deadline_s, request.arrival))

    def remove(self, request: Request) -> None:
        """A request has ended."""
        self._live.pop(request.arrival, None)
        if len(self._heap) > 2 * len(self._live) + 64:
            self._heap = [entry for entry in self._heap if entry[1] in self._live]
            heapq.heapify(self._heap)

    def passed(self, now: float) -> Iterator[Request]:
        """The live requests whose deadline is `now` or before."""
        while self._heap and self._heap[0][0] <= now:
            _, arrival = heapq.heappop(self._heap)
            request = self._live.pop(arrival, None)
            if request is not None:
                yield request
