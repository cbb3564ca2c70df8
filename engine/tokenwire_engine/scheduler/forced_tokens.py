"""Tokens that a grammar leaves no choice about are taken as if they had been sampled: one step computes all.

A step that is on its way may be about to sample the first of them. That token is foreseen: it is taken now,
and whatever that step samples is passed over. So it takes two of them to gain anything then.
"""

from __future__ import annotations

from tokenwire_engine.scheduler.counters import Counters
from tokenwire_engine.scheduler.deliveries import Deliveries, End
from tokenwire_engine.scheduler.request import Request
from tokenwire_engine.scheduler.running import Running


class ForcedTokens:
    """Takes them for requests whose next token has just become known."""

    def __init__(self, running: Running, deliveries: Deliveries, counters: Counters, block_size: int) -> None:
        self._running = running
        self._deliveries = deliveries
        self._counters = counters
        self._block_size = block_size

    def take(self, request: Request) -> End | None:
        """Take what can only follow a request's known tokens; its end, if that comes with them. Only as far
        as it falls into the block that the next token needs anyway."""
        if request.grammar is None or not (forced := request.grammar.forced()):
            return None
        if not request.takes_forced_tokens:
            return None
        forced = forced[: -request.num_tokens % self._block_size]
        if len(forced) <= self._running.num_pending(request):
            return None
        self._running.stop_decoding(request)
        request.num_foreseen += request.num_pending
        request.num_pending = 0
        for token_id in forced:
            self._counters.generated_tokens += 1
            if (end := self._deliveries.token(request, token_id)) is not None:
                return end
        return None
