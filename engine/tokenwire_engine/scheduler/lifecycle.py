"""A request from its submission to its end: its samples, its deadline, and what is said of it.

Every request that was submitted ends exactly once, whatever it was doing, and its channel is told why.
"""

from __future__ import annotations

from collections.abc import Callable

from tokenwire_engine.scheduler.admission import AdmissionControl
from tokenwire_engine.scheduler.block_manager import BlockManager
from tokenwire_engine.scheduler.counters import Counters
from tokenwire_engine.scheduler.deadlines import Deadlines
from tokenwire_engine.scheduler.deliveries import Deliveries
from tokenwire_engine.scheduler.observer import Observer
from tokenwire_engine.scheduler.request import FinishReason, Request
from tokenwire_engine.scheduler.samples import Samples, make_samples


class Lifecycle:
    """Begins and ends requests."""

    def __init__(
        self,
        admission: AdmissionControl,
        blocks: BlockManager,
        deliveries: Deliveries,
        counters: Counters,
        clock: Callable[[], float],
        observer: Observer | None,
    ) -> None:
        self._admission = admission
        self._blocks = blocks
        self._deliveries = deliveries
        self._counters = counters
        self._clock = clock
        self._observer = observer
        self._deadlines = Deadlines()
        self._num_submitted = 0
        self._live: dict[str, Samples] = {}
        """What has not ended, by request id."""

    def submit(self, request: Request, context_limit: int) -> None:
        """Begin a request. One whose known tokens already end it is finished at once.

        Raises:
            ValueError: when its id is in use.
        """
        if request.request_id in self._live:
            raise ValueError(f"request id {request.request_id!r} is in use; choose another")
        samples = self._live[request.request_id] = make_samples(request)
        now = self._clock()
        for sample in samples.members:
            sample.tables = self._blocks.make_tables()
            sample.length_limit = min(len(sample.prompt_token_ids) + sample.max_tokens, context_limit)
            sample.arrival, sample.arrival_s = self._num_submitted, now
            self._num_submitted += 1
        if reason := request.finish_reason():
            self._say_finished(request, reason)
        else:
            self._begin(request)

    def let_siblings_begin(self, request: Request) -> None:
        """A request's prompt will have been computed when the next step runs: the other samples can go on
        from it, ahead of the requests that their own came before."""
        siblings, request.samples.unborn = request.samples.unborn, []
        for sibling in reversed(siblings):
            sibling.origin = request.tables
            self._begin(sibling)

    def expire(self) -> None:
        """End the requests whose deadline has passed."""
        for request in self._deadlines.passed(self._clock()):
            self.finish(request, FinishReason.EXPIRED, _expired(request))

    def cancel(self, request_id: str) -> None:
        """End a request, all of its samples; one that has ended already is left alone."""
        if (samples := self._live.get(request_id)) is not None:
            for request in tuple(samples.members):
                if not request.has_ended:
                    self.finish(request, FinishReason.CANCELLED)

    def finish(self, request: Request, reason: FinishReason, error: str = "") -> None:
        """End a sample, whatever its state, and say so to its channel. Those that wait for it to compute
        their prompt end with it."""
        self._admission.remove(request)
        self._deadlines.remove(request)
        unborn, request.samples.unborn = request.samples.unborn, []
        for sample in (request, *unborn):
            self._say_finished(sample, reason, error)

    def _begin(self, request: Request) -> None:
        """A request, or a sample whose turn has come, joins those that wait."""
        self._deadlines.add(request)
        self._admission.add(request, ahead=request.origin is not None)

    def _say_finished(self, request: Request, reason: FinishReason, error: str = "") -> None:
        request.has_ended = True
        request.origin = None
        samples = request.samples
        samples.num_live -= 1
        samples.completion_tokens += len(request.output_token_ids)
        if samples.num_live == 0:
            del self._live[request.request_id]
            self._counters.finished_requests += 1
        if self._observer is not None:
            self._observer.finished(request, reason, self._clock())
        self._deliveries.finished(request, reason, error)
        if samples.num_live == 0:
            samples.members.clear()


def _expired(request: Request) -> str:
    return (
        f"the request's time was up after {len(request.output_token_ids)} of at most {request.max_tokens} "
        "tokens; give it more time, or ask for fewer tokens"
    )
