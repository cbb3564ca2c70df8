"""Fair share per tenant: the virtual token counter of "Fairness in Serving Large Language Models" (OSDI '24).

Each tenant has a counter of the tokens it was served, output tokens weighted more than input tokens, since
they cost more. The waiting tenant with the lowest counter is served next, its requests in order of arrival.
A tenant that comes back after a pause is lifted to the lowest counter of those who wait: time off earns no
credit. So of two tenants that both wait all the time, neither gets more than a bounded number of tokens
ahead of the other (theorem 4.4 there), however many requests it sends.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable

from tokenwire_engine.scheduler.request import Request

INPUT_WEIGHT = 1
OUTPUT_WEIGHT = 2
MOST_IDLE_TENANTS = 4096
"""Beyond so many counters those that no longer make a difference are looked for, and forgotten."""


class FairShare:
    """The `Policy` of equal service for all tenants.

    Attributes:
        served: weighted tokens served, by tenant; those that a tenant was lifted by included.
    """

    is_preemptive = False

    def __init__(self) -> None:
        self.served: dict[str, int] = {}
        self._queues: dict[str, OrderedDict[int, Request]] = {}
        """The waiting requests of each tenant that has any, by arrival number."""
        self._heap: list[tuple[int, str]] = []
        """Each such tenant, and some that were, with the counter, or what that was a while ago."""
        self._in_heap: set[str] = set()
        self._latest = ""
        """The tenant that was admitted last."""
        self._floor = 0
        """Whoever begins to wait is lifted to this at least, so that no waiting counter is below it."""
        self._forget_at = MOST_IDLE_TENANTS

    def add(self, request: Request, ahead: bool) -> None:
        tenant = request.tenant
        queue = self._queues.get(tenant)
        if queue is None:
            self._floor = max(self._floor, self._lowest())
            self._forget_idle()
            self.served[tenant] = max(self.served.get(tenant, 0), self._floor)
            queue = self._queues[tenant] = OrderedDict()
            if tenant not in self._in_heap:
                heapq.heappush(self._heap, (self.served[tenant], tenant))
                self._in_heap.add(tenant)
        queue[request.arrival] = request
        if ahead:
            queue.move_to_end(request.arrival, last=False)

    def remove(self, request: Request) -> None:
        queue = self._queues[request.tenant]
        del queue[request.arrival]
        if not queue:
            del self._queues[request.tenant]

    def first(self) -> Request | None:
        tenant = self._first_tenant()
        return None if tenant is None else next(iter(self._queues[tenant].values()))

    def rank(self, request: Request) -> tuple[int, int]:
        return self.served.get(request.tenant, self._floor), request.arrival

    def outranks(self, waiting: Request, running: Request) -> bool:
        return False

    def admitted(self, request: Request, num_tokens: int) -> None:
        self.served[request.tenant] += INPUT_WEIGHT * num_tokens
        self._latest = request.tenant

    def generated(self, requests: Iterable[Request]) -> None:
        served, floor = self.served, self._floor
        for request in requests:
            served[request.tenant] = served.get(request.tenant, floor) + OUTPUT_WEIGHT

    def _lowest(self) -> int:
        """The lowest counter of those who wait; with nobody waiting, of whoever was admitted last."""
        tenant = self._first_tenant()
        return self.served.get(self._latest if tenant is None else tenant, 0)

    def _first_tenant(self) -> str | None:
        """The waiting tenant with the lowest counter. Counters only grow, so the heap's entries are at most
        too low: one that is goes back with the present value."""
        while self._heap:
            counter, tenant = self._heap[0]
            if tenant not in self._queues:
                heapq.heappop(self._heap)
                self._in_heap.remove(tenant)
            elif counter < self.served[tenant]:
                heapq.heapreplace(self._heap, (self.served[tenant], tenant))
            else:
                return tenant
        return None

    def _forget_idle(self) -> None:
        """Bound the counters of tenants that have gone. Nothing is lost: whoever comes back from below the
        floor is lifted to it."""
        if len(self.served) < self._forget_at:
            return
        self.served = {
            tenant: counter
            for tenant, counter in self.served.items()
            if counter > self._floor or tenant in self._queues
        }
        self._forget_at = 2 * len(self.served) + MOST_IDLE_TENANTS
