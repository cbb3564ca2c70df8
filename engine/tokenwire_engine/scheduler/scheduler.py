"""Iteration-level continuous batching with one token budget per step (Orca, OSDI 2022; chunked prefill as
in Sarathi-Serve, OSDI 2024).

First come, first served, and that order is the invariant: every running request arrived before every
waiting one, and both are kept in order of arrival. So the oldest request always gets its next block (the
youngest running one gives way), the head of the queue always gets in once the others are done, and nobody
starves. Requests whose channel is on hold stand outside of it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.kv_cache.block_table import BlockTable, ceil_div
from tokenwire_engine.scheduler.outputs import ChannelOutput, Finished, Outputs
from tokenwire_engine.scheduler.plan import Admission, ScheduledTokens, StepPlan, StepResult
from tokenwire_engine.scheduler.request import NO_SLOT, FinishReason, Request


@dataclass(slots=True, frozen=True)
class SchedulerLimits:
    """What one step and one request may take."""

    max_running: int
    """Most requests in one step."""
    max_step_tokens: int
    """Most tokens in one step."""
    max_model_len: int
    """Most tokens of prompt and output together."""


@dataclass(slots=True)
class Counters:
    """Since the start."""

    steps: int = 0
    prompt_tokens: int = 0
    """Prompt tokens computed; those computed again after a preemption count again."""
    generated_tokens: int = 0
    preemptions: int = 0
    finished_requests: int = 0


class Scheduler:
    """Decides which tokens of which requests each step computes.

    `submit` and `cancel` change what there is to do, `plan` makes the next step of it, `complete` takes in
    what the step yielded (or `fail` that it failed), and `take_outputs` says what became of the requests.
    Plans complete in the order in which they were made.
    """

    def __init__(self, limits: SchedulerLimits, pool: BlockPool) -> None:
        self.pool = pool
        self.counters = Counters()
        self.context_limit = min(limits.max_model_len, pool.num_tokens)
        self._token_budget = limits.max_step_tokens
        self._free_slots = list(range(limits.max_running - 1, -1, -1))
        self._waiting: OrderedDict[str, Request] = OrderedDict()
        self._running: dict[str, Request] = {}
        self._held: dict[int, dict[str, Request]] = {}
        """Requests set aside, in order of arrival, by the channel that is on hold."""
        self._released: list[int] = []
        self._in_flight: deque[_Step] = deque()
        self._outputs: Outputs = {}

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting) + sum(map(len, self._held.values()))

    @property
    def has_work(self) -> bool:
        """Whether `plan` would make a step."""
        return bool(self._running or self._waiting)

    def submit(self, request: Request) -> None:
        """Queue a request. One whose known tokens already end it is finished at once.

        Raises:
            ValueError: when its id is in use, or not even one more token could ever fit.
        """
        if self._find(request.request_id) is not None:
            raise ValueError(f"request id {request.request_id!r} is in use; choose another")
        if request.num_tokens >= self.context_limit:
            raise ValueError(
                f"the request has {request.num_tokens} tokens and needs room for at least one more; the "
                f"context holds {self.context_limit} ({self.pool.num_tokens} in the KV cache)"
            )
        request.table = BlockTable(self.pool.block_size)
        request.length_limit = min(len(request.prompt_token_ids) + request.max_tokens, self.context_limit)
        if reason := request.finish_reason():
            self._finish(request, reason)
        else:
            self._held.get(request.channel, self._waiting)[request.request_id] = request

    def cancel(self, request_id: str) -> None:
        """End a request; one that has ended already is left alone."""
        request = self._find(request_id)
        if request is not None:
            self._finish(request, FinishReason.CANCELLED)

    def hold(self, channel: int) -> None:
        """Set a channel's requests aside: until `resume`, none of them has a slot or a block, and no other
        waits for them."""
        if channel in self._held:
            return
        for request in reversed([r for r in self._running.values() if r.channel == channel]):
            self._preempt(request)
        held = {r.request_id: r for r in self._waiting.values() if r.channel == channel}
        for request_id in held:
            del self._waiting[request_id]
        self._held[channel] = held

    def resume(self, channel: int) -> None:
        """Let a channel's requests go on, ahead of those that wait: they have waited longer."""
        for request in reversed(self._held.pop(channel, {}).values()):
            self._waiting[request.request_id] = request
            self._waiting.move_to_end(request.request_id, last=False)

    def plan(self) -> StepPlan | None:
        """The next step, or None when there is nothing to compute."""
        step = _Step(StepPlan(self.counters.steps))
        budget = self._token_budget

        # Decodes first, so that no prompt, however long, holds up the others' next tokens.
        prefilling: list[Request] = []
        for request in list(self._running.values()):
            if request.slot == NO_SLOT:  # gave way to an older request just now
                continue
            if request.num_to_go > 1:
                prefilling.append(request)
            elif self._make_room(request):
                budget -= self._schedule(request, budget, step)

        for request in prefilling:
            if budget > 0:
                budget -= self._schedule(request, budget, step)

        # Only with tokens to spare, so that there are never more requests running than tokens in a step.
        while budget > 0 and (admitted := self._admit()):
            step.plan.admitted.append(_admission(admitted))
            budget -= self._schedule(admitted, budget, step)

        if not step.plan.scheduled:
            return None
        step.plan.released, self._released = self._released, []
        self.counters.steps += 1
        self._in_flight.append(step)
        return step.plan

    def complete(self, result: StepResult) -> None:
        """Take in what the oldest uncompleted plan yielded.

        Raises:
            ValueError: when it is not that plan's result.
        """
        step = self._in_flight[0]
        if result.step != step.plan.step or len(result.token_ids) != len(step.sampling):
            raise ValueError(
                f"step {result.step} with {len(result.token_ids)} tokens; expected step {step.plan.step} "
                f"with {len(step.sampling)}"
            )
        self._in_flight.popleft()
        outputs = self._outputs
        generated = 0
        for request, logprobs in zip(step.scored, result.prompt_logprobs, strict=True):
            if request.slot == NO_SLOT:  # cancelled while the step ran
                continue
            request.num_prompt_scored += len(logprobs)
            outputs.setdefault(request.channel, ChannelOutput()).prompt_logprobs.append(
                (request.label, logprobs)
            )
        for index, (request, token_id) in enumerate(zip(step.sampling, result.token_ids, strict=True)):
            if request.slot == NO_SLOT:  # cancelled while the step ran
                continue
            request.output_token_ids.append(token_id)
            generated += 1
            channel = outputs.get(request.channel)
            if channel is None:
                channel = outputs[request.channel] = ChannelOutput()
            channel.labels.append(request.label)
            channel.token_ids.append(token_id)
            if index in result.logprobs:
                channel.logprobs[request.label] = result.logprobs[index]
            if reason := request.finish_reason():
                self._finish(request, reason)
        self.counters.generated_tokens += generated

    def fail(self, error: str) -> None:
        """The steps in flight failed: their requests end with an error, and nothing of them stays."""
        while self._in_flight:
            plan = self._in_flight.popleft().plan
            slots = {row.slot for row in plan.scheduled}
            for request in [r for r in self._running.values() if r.slot in slots]:
                self._finish(request, FinishReason.ERROR, error)
            # The runner may not have come to the plan's own releases.
            self._released += set(plan.released).difference(self._released)

    def take_outputs(self) -> Outputs:
        """What happened since the last call."""
        outputs, self._outputs = self._outputs, {}
        return outputs

    def _find(self, request_id: str) -> Request | None:
        """A request that has not ended."""
        found = self._running.get(request_id) or self._waiting.get(request_id)
        if found is None:
            held = (requests.get(request_id) for requests in self._held.values())
            found = next((request for request in held if request is not None), None)
        return found

    def _make_room(self, request: Request) -> bool:
        """Whether a running request's next token fits, younger ones giving way to it if they must."""
        if request.num_computed < request.table.capacity:
            return True
        while self.pool.num_free == 0:
            youngest = next(reversed(self._running.values()))
            self._preempt(youngest)
            if youngest is request:
                return False
        return True

    def _schedule(self, request: Request, budget: int, step: _Step) -> int:
        """Compute a request's next tokens in this step, at most `budget`; how many they are."""
        start = request.num_computed
        num_known = request.num_tokens
        end = min(num_known, start + budget)
        # All known tokens get their blocks with the first chunk, so that a prefill, once begun, never waits
        # for another; after that, a decode takes one block at a time.
        new_blocks: list[int] = []
        if num_known > request.table.capacity:
            new_blocks = self.pool.allocate(request.table.blocks_needed(num_known))
            request.table.blocks += new_blocks
        samples = end == num_known
        scored = request.scored_prompt(start, end)
        step.plan.scheduled.append(
            ScheduledTokens(request.slot, start, request.tokens(start, end), new_blocks, samples, scored)
        )
        if scored:
            step.scored.append(request)
        if samples:
            step.sampling.append(request)
        num_prompt = len(request.prompt_token_ids)
        if start < num_prompt:
            self.counters.prompt_tokens += min(end, num_prompt) - start
        request.num_computed = end
        return end - start

    def _admit(self) -> Request | None:
        """Let the head of the queue run, if there is a slot and room for all of its known tokens, with a
        block to spare for each running one: a request that would soon give way had better wait."""
        if not self._waiting or not self._free_slots:
            return None
        request = next(iter(self._waiting.values()))
        needed = ceil_div(request.num_tokens, self.pool.block_size)
        if needed + len(self._running) > self.pool.num_free:
            return None
        del self._waiting[request.request_id]
        self._running[request.request_id] = request
        request.slot = self._free_slots.pop()
        return request

    def _preempt(self, request: Request) -> None:
        """Take a running request's blocks and put it back at the head of the queue."""
        self._leave(request)
        self._waiting[request.request_id] = request
        self._waiting.move_to_end(request.request_id, last=False)
        self.counters.preemptions += 1

    def _leave(self, request: Request) -> None:
        """Give back a running request's slot and blocks."""
        del self._running[request.request_id]
        self.pool.release(request.table.blocks)
        request.table = BlockTable(self.pool.block_size)
        self._free_slots.append(request.slot)
        self._released.append(request.slot)
        request.slot = NO_SLOT
        request.num_computed = 0

    def _finish(self, request: Request, reason: FinishReason, error: str = "") -> None:
        """End a request, whatever its state, and say so to its channel."""
        if request.slot != NO_SLOT:
            self._leave(request)
        else:
            self._waiting.pop(request.request_id, None)
            self._held.get(request.channel, {}).pop(request.request_id, None)
        self.counters.finished_requests += 1
        self._outputs.setdefault(request.channel, ChannelOutput()).finished.append(
            Finished(
                request.request_id,
                request.label,
                reason,
                prompt_tokens=len(request.prompt_token_ids),
                completion_tokens=len(request.output_token_ids),
                stop_token_id=request.output_token_ids[-1] if reason is FinishReason.STOP else None,
                error=error,
            )
        )


@dataclass(slots=True)
class _Step:
    """A plan whose result is not in yet."""

    plan: StepPlan
    sampling: list[Request] = field(default_factory=list)
    """The requests of the rows that sample, in the plan's order."""
    scored: list[Request] = field(default_factory=list)
    """The requests of the rows that yield log-probabilities of the prompt, in the plan's order."""


def _admission(request: Request) -> Admission:
    # The output grows while the runner reads; the prompt never changes.
    return Admission(
        request.slot, request.sampling, request.prompt_token_ids, request.output_token_ids.copy()
    )
