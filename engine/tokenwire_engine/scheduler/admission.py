"""Who runs and who waits: admission, and preemption when slots or blocks run out.

A policy says who is served first; admission and giving way follow it strictly. The first in line gets in as
soon as there is room for it and nobody overtakes it; when blocks run out, the least deserving of the running
requests give way before the step is planned, so that the most deserving one always gets its next token, and
every step brings somebody forward. Requests whose channel is on hold stand outside of it.

A request that gave way comes back only when no launched step has it any more.
"""

from __future__ import annotations

from collections.abc import Iterator

from tokenwire_engine.scheduler.block_manager import BlockManager
from tokenwire_engine.scheduler.counters import Counters
from tokenwire_engine.scheduler.plan import Admission, StepPlan
from tokenwire_engine.scheduler.policy import Policy
from tokenwire_engine.scheduler.request import NO_SLOT, Request
from tokenwire_engine.scheduler.running import Running
from tokenwire_engine.scheduler.waiting import Waiting


class AdmissionControl:
    """Moves requests between those that wait and those that run.

    Attributes:
        latest_result: the last step that has completed or failed: those behind it are in flight.
    """

    def __init__(self, running: Running, blocks: BlockManager, policy: Policy, counters: Counters) -> None:
        self._running = running
        self._waiting = Waiting(policy)
        self._blocks = blocks
        self._policy = policy
        self._counters = counters
        self.latest_result = -1

    def __iter__(self) -> Iterator[Request]:
        yield from self._running
        yield from self._waiting

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        """Whether there is something to plan, now or once the steps in flight have completed."""
        return len(self._running) > 0 or self._waiting.num_in_line > 0

    def add(self, request: Request, ahead: bool = False) -> None:
        """A request waits: behind those that the policy holds equal to it, or ahead of them."""
        self._waiting.add(request, ahead)

    def remove(self, request: Request) -> None:
        """A request has ended, whether it runs or waits."""
        if request.slot != NO_SLOT:
            self._running.leave(request)
        else:
            self._waiting.remove(request)

    def hold(self, channel: int) -> None:
        """Set a channel's requests aside: until `resume`, none of them has a slot or a block, and no other
        waits for them."""
        if self._waiting.is_held(channel):
            return
        for request in [r for r in reversed(self._running) if r.channel == channel]:
            self.preempt(request)
        self._waiting.hold(channel)

    def resume(self, channel: int) -> None:
        """Let a channel's requests go on, ahead of those that the policy holds equal: they have waited
        longer."""
        self._waiting.resume(channel)

    def make_way(self) -> None:
        """Let requests give way to the first in line, if it outranks them and they hold what it lacks."""
        if not self._policy.is_preemptive:
            return
        request = self._waiting.first()
        if request is None or self._is_in_flight(request):
            return
        needed = self._num_needed(request)
        if self._running.num_free_slots and needed <= self._blocks.num_free:
            return
        outranked = [running for running in self._running if self._policy.outranks(request, running)]
        if not outranked or needed > self._blocks.num_free + sum(map(self._blocks.num_held, outranked)):
            return
        for running in sorted(outranked, key=self._policy.rank, reverse=True):
            self.preempt(running)
            if self._num_needed(request) <= self._blocks.num_free:
                return

    def num_waiting_for_first_token(self) -> int:
        """Requests with a slot, or one to get, whose prompts are still to be computed."""
        return self._running.num_prompts() + min(self._running.num_free_slots, self._waiting.num_in_line)

    def make_room(self, num_waiting: int) -> None:
        """Let the least deserving give way until all others get the blocks that their next tokens take.
        `num_waiting`: requests that wait for their first token."""
        if self._blocks.most_growth(len(self._running)) <= self._blocks.num_free:
            return
        ranked: list[Request] | None = None
        while self._running.growth(num_waiting) > self._blocks.num_free:
            ranked = ranked or sorted(self._running, key=self._policy.rank)
            self.preempt(ranked.pop())

    def admit(self, plan: StepPlan) -> Request | None:
        """Let the first in line run from this step on, if there is a slot and room for it."""
        if not self._running.num_free_slots or (request := self._waiting.first()) is None:
            return None
        if self._is_in_flight(request) or self._num_needed(request) > self._blocks.num_free:
            return None
        self._waiting.remove(request)
        plan.copies += self._running.enter(request)
        plan.admitted.append(_admission(request))
        return request

    def preempt(self, request: Request) -> None:
        """Take a running request's slot and blocks; it waits for its turn to go on."""
        self._running.leave(request)
        request.latest_step = self._counters.steps - 1
        self._waiting.add(request, ahead=True)
        self._counters.preemptions += 1

    def _is_in_flight(self, request: Request) -> bool:
        """Whether a request that waits has only just given way."""
        return request.latest_step > self.latest_result

    def _num_needed(self, request: Request) -> int:
        """Free blocks that it takes to admit a request, with one to spare in each group for each
        running one: who would soon give way had better wait."""
        return self._blocks.num_needed(request) + len(self._running) * self._blocks.num_groups


def _admission(request: Request) -> Admission:
    # The output grows while the runner reads; the prompt never changes.
    return Admission(
        request.slot,
        request.sampling,
        request.prompt_token_ids,
        request.output_token_ids.copy(),
    )
