"""Iteration-level continuous batching with one token budget per step (Orca, OSDI 2022; chunked prefill as
in Sarathi-Serve, OSDI 2024).

A policy says who is served first; admission and giving way follow it strictly. The first in line gets in as
soon as there is room for it and nobody overtakes it; when blocks run out, the least deserving of the running
requests give way before the step is planned, so that the most deserving one always gets its next token, and
every step brings somebody forward. Requests whose channel is on hold stand outside of it.

Plans may run ahead of results: a request whose latest token is not known yet can be planned to compute it all
the same. One that turns out to have ended with that token has then computed one token too many, which is
discarded. Steps run in the order of their plans, so slots can be given to others while a launched step still
uses them. A request that gave way comes back only when no launched step has it any more.

A full block can be found by other requests once the step that computed its last token has completed, so that
a step that failed has left nothing to be found.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.kv_cache.changes import Change
from tokenwire_engine.kv_cache.groups import longest_sequence
from tokenwire_engine.kv_cache.prefix_cache import PrefixCache
from tokenwire_engine.scheduler.block_manager import BlockManager
from tokenwire_engine.scheduler.counters import Counters
from tokenwire_engine.scheduler.deadlines import Deadlines
from tokenwire_engine.scheduler.fcfs import FirstComeFirstServed
from tokenwire_engine.scheduler.in_flight import StepInFlight
from tokenwire_engine.scheduler.observer import Observer
from tokenwire_engine.scheduler.outputs import ChannelOutput, Finished, Outputs
from tokenwire_engine.scheduler.plan import PENDING, Admission, ScheduledTokens, StepPlan, StepResult
from tokenwire_engine.scheduler.policy import Policy
from tokenwire_engine.scheduler.request import NO_SLOT, FinishReason, Request
from tokenwire_engine.scheduler.samples import Samples, make_samples
from tokenwire_engine.scheduler.step_budget import StepBudget

_PENDING = (PENDING,)


@dataclass(slots=True, frozen=True)
class SchedulerLimits:
    """What one step and one request may take."""

    max_running: int
    """Most requests in one step."""
    max_step_tokens: int
    """Most tokens in one step."""
    max_model_len: int
    """Most tokens of prompt and output together."""
    adapts_step: bool = False
    """Whether a step gets fewer tokens than it may have, so that prompts do not hold up those who decode."""
    windows: tuple[int, ...] = (0,)
    """Of each group of layers, those that see the most first: tokens that a token sees at most, itself
    included; 0: all before it."""


class Scheduler:
    """Decides which tokens of which requests each step computes.

    `submit` and `cancel` change what there is to do, `plan` makes the next step of it, `complete` takes in
    what the step yielded (or `fail` that it failed), and `take_outputs` says what became of the requests.
    Plans complete in the order in which they were made.
    """

    def __init__(
        self,
        limits: SchedulerLimits,
        pool: BlockPool,
        policy: Policy | None = None,
        prefix_cache: PrefixCache | None = None,
        clock: Callable[[], float] = time.monotonic,
        observer: Observer | None = None,
    ) -> None:
        """
        Args:
            policy: who is served first; None: in order of arrival.
            prefix_cache: of the pool; None: every request computes all of its tokens.
            clock: the time in seconds, for ages and deadlines.
            observer: who is told what becomes of the requests; None: nobody.
        """
        self.pool = pool
        self.counters = Counters()
        self._budget = StepBudget(limits.max_step_tokens, limits.adapts_step)
        self._blocks = BlockManager(pool, limits.windows, limits.max_step_tokens, prefix_cache, self.counters)
        self.context_limit = longest_sequence(
            pool.num_blocks, limits.windows, pool.block_size, limits.max_step_tokens, limits.max_model_len
        )
        self._free_slots = list(range(limits.max_running - 1, -1, -1))
        self._policy = policy or FirstComeFirstServed()
        self._prefix_cache = prefix_cache
        self._clock = clock
        self._observer = observer
        self._deadlines = Deadlines()
        self._num_submitted = 0
        self._live: dict[str, Samples] = {}
        """What has not ended, by request id."""
        self._waiting: dict[int, Request] = {}
        """By arrival number, as are the next two."""
        self._running: dict[int, Request] = {}
        self._held: dict[int, dict[int, Request]] = {}
        """Requests set aside, in order of arrival, by the channel that is on hold."""
        self._released: list[int] = []
        self._in_flight: deque[StepInFlight] = deque()
        self._latest_result = -1
        """The last step that has completed or failed."""
        self._outputs: Outputs = {}

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting) + sum(map(len, self._held.values()))

    @property
    def num_cached_blocks(self) -> int:
        """Blocks whose content other requests can find."""
        return 0 if self._prefix_cache is None else self._prefix_cache.num_blocks

    @property
    def has_work(self) -> bool:
        """Whether there is something to plan, now or once the steps in flight have completed."""
        return bool(self._running or self._waiting)

    def submit(self, request: Request) -> None:
        """Queue a request. One whose known tokens already end it is finished at once.

        Raises:
            ValueError: when its id is in use, or not even one more token could ever fit.
        """
        if request.request_id in self._live:
            raise ValueError(f"request id {request.request_id!r} is in use; choose another")
        if request.num_tokens >= self.context_limit:
            raise ValueError(
                f"the request has {request.num_tokens} tokens and needs room for at least one more; the "
                f"context holds {self.context_limit} (the KV cache has {self.pool.num_blocks} blocks of "
                f"{self.pool.block_size} tokens)"
            )
        samples = self._live[request.request_id] = make_samples(request)
        now = self._clock()
        for sample in samples.members:
            sample.tables = self._blocks.make_tables()
            sample.length_limit = min(len(sample.prompt_token_ids) + sample.max_tokens, self.context_limit)
            sample.arrival, sample.arrival_s = self._num_submitted, now
            self._num_submitted += 1
        if reason := request.finish_reason():
            self._say_finished(request, reason)
        else:
            self._begin(request)

    def cancel(self, request_id: str) -> None:
        """End a request, all of its samples; one that has ended already is left alone."""
        if (samples := self._live.get(request_id)) is not None:
            for request in tuple(samples.members):
                if not request.has_ended:
                    self._finish(request, FinishReason.CANCELLED)

    def hand_back(self) -> None:
        """End every request, for its caller to continue it elsewhere."""
        held = [request for requests in self._held.values() for request in requests.values()]
        for request in [*self._running.values(), *self._waiting.values(), *held]:
            self._finish(request, FinishReason.HANDED_BACK)

    def hold(self, channel: int) -> None:
        """Set a channel's requests aside: until `resume`, none of them has a slot or a block, and no other
        waits for them."""
        if channel in self._held:
            return
        for request in reversed([r for r in self._running.values() if r.channel == channel]):
            self._preempt(request)
        held = sorted((r for r in self._waiting.values() if r.channel == channel), key=lambda r: r.arrival)
        for request in held:
            del self._waiting[request.arrival]
            self._policy.remove(request)
        self._held[channel] = {request.arrival: request for request in held}

    def resume(self, channel: int) -> None:
        """Let a channel's requests go on, ahead of those that the policy holds equal: they have waited
        longer."""
        for request in reversed(self._held.pop(channel, {}).values()):
            self._wait(request, ahead=True)

    def plan(self) -> StepPlan | None:
        """The next step, or None when there is nothing to compute (before the steps in flight complete)."""
        for request in self._deadlines.passed(self._clock()):
            self._finish(request, FinishReason.EXPIRED, _expired(request))
        if self._policy.is_preemptive:
            self._make_way()
        self._make_room()
        step = StepInFlight(StepPlan(self.counters.steps))
        budget = self._budget.most

        # Decodes first, so that no prompt, however long, holds up the others' next tokens.
        prefilling: list[Request] = []
        for request in self._running.values():
            if request.num_to_go > 1:
                prefilling.append(request)
            elif not (request.num_pending and request.must_wait):
                budget -= self._schedule(request, budget, step)

        step.num_decodes = self._budget.most - budget
        budget = at_most = self._budget.prompt_tokens(step.num_decodes)
        for request in prefilling:
            if budget > 0:
                budget -= self._schedule(request, budget, step)

        # Only with tokens to spare, so that there are never more requests running than tokens in a step.
        while budget > 0 and (admitted := self._admit(step.plan)):
            step.plan.admitted.append(_admission(admitted))
            budget -= self._schedule(admitted, budget, step, _blocks_of(admitted))

        if not step.plan.scheduled:
            return None
        step.num_prompt_tokens = at_most - budget
        for request in step.prompts_done:
            self._let_siblings_begin(request)
        step.plan.released, self._released = self._released, []
        if self._prefix_cache is not None:
            step.plan.host_moves = self._prefix_cache.take_host_moves()
        self.counters.steps += 1
        if self._observer is not None:
            self._observer.planned(len(step.requests), step.num_decodes + step.num_prompt_tokens)
        self._in_flight.append(step)
        return step.plan

    def complete(self, result: StepResult, seconds: float | None = None) -> None:
        """Take in what the oldest uncompleted plan yielded, and how long it took where that was measured.

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
        self._latest_result = result.step
        if seconds is not None:
            self._budget.observe(seconds, step.num_decodes, step.num_prompt_tokens)
        self._blocks.keep_filled(step.filled)
        outputs = self._outputs
        for request, logprobs in zip(step.scored, result.prompt_logprobs, strict=True):
            if request.has_ended:
                continue
            request.num_prompt_scored += len(logprobs)
            outputs.setdefault(request.channel, ChannelOutput()).prompt_logprobs.append(
                (request.label, logprobs)
            )
        # The others ended while the step ran, or with the token of the step before.
        generated = [request for request in step.sampling if not request.has_ended]
        if self._observer is not None:
            self._observer.generated(generated, self._clock())
        all_logprobs = result.logprobs
        for index, (request, token_id) in enumerate(zip(step.sampling, result.token_ids, strict=True)):
            if request.has_ended:
                continue
            request.num_pending -= 1
            if request.grammar is not None and not request.grammar.accept(token_id):
                self._finish(request, FinishReason.UNSATISFIABLE, request.grammar.error)
                continue
            request.output_token_ids.append(token_id)
            channel = outputs.get(request.channel)
            if channel is None:
                channel = outputs[request.channel] = ChannelOutput()
            channel.add_token(request.label, token_id, request.sampling.sample_index)
            if all_logprobs and (scored := all_logprobs.get(index)) is not None:
                channel.logprobs[request.label, request.sampling.sample_index] = scored
            reason = request.finish_reason()
            if reason is None and request.grammar is not None and request.takes_forced_tokens:
                reason = self._fast_forward(request, channel)
            if reason is not None:
                self._finish(request, reason)
        self.counters.generated_tokens += len(generated)
        self._policy.generated(generated)

    def _fast_forward(self, request: Request, channel: ChannelOutput) -> FinishReason | None:
        """Take what can only follow a request's latest token as if it had been sampled, so that one step
        computes all of it; why it has ended, if it has. Only as far as it falls into the block that the next
        token needs anyway."""
        grammar, reason = request.grammar, None
        assert grammar is not None
        for token_id in grammar.forced()[: -request.num_tokens % self.pool.block_size]:
            if not grammar.accept(token_id):
                return FinishReason.ERROR
            request.output_token_ids.append(token_id)
            channel.add_token(request.label, token_id, request.sampling.sample_index)
            self.counters.generated_tokens += 1
            if (reason := request.finish_reason()) is not None:
                break
        return reason

    def fail(self, error: str) -> None:
        """The oldest step in flight failed: its requests end with an error, and nothing of them stays. Those
        of the steps behind it, which are lost with it, wait for their turn to compute the same again."""
        failed = self._in_flight.popleft()
        lost = list(self._in_flight)
        self._in_flight.clear()
        if any(step.plan.host_moves for step in (failed, *lost)):
            self.reset_prefix_cache()  # who knows which of them were made
        for step in (failed, *lost):
            self._latest_result = step.plan.step
            # The runner may not have come to the plan's own releases.
            self._released += set(step.plan.released).difference(self._released)
            for request in step.requests:
                request.num_pending = 0
        for request in failed.requests:
            if request.slot != NO_SLOT:
                self._finish(request, FinishReason.ERROR, error)
        for request in reversed([request for step in lost for request in step.requests]):
            if request.slot != NO_SLOT:
                self._preempt(request)

    def take_outputs(self) -> Outputs:
        """What happened since the last call."""
        outputs, self._outputs = self._outputs, {}
        return outputs

    def reset_prefix_cache(self) -> int:
        """Forget what is cached, so that requests admitted from now on find nothing computed before. How many
        blocks that was."""
        return 0 if self._prefix_cache is None else self._prefix_cache.reset()

    def watch_prefix_cache(self, watch: bool) -> None:
        """Whether to keep account of what the prefix cache holds: all of it first, and then what changes."""
        if self._prefix_cache is not None:
            if watch:
                self._prefix_cache.watch()
            else:
                self._prefix_cache.unwatch()

    def take_cache_changes(self) -> list[Change]:
        """What has changed in the prefix cache since the last call, if account is kept of it."""
        return [] if self._prefix_cache is None else self._prefix_cache.take_changes()

    def _begin(self, request: Request) -> None:
        """A request, or a sample whose turn has come, joins those that wait."""
        self._deadlines.add(request)
        if (held := self._held.get(request.channel)) is not None:
            held[request.arrival] = request
        else:
            self._wait(request, ahead=request.origin is not None)

    def _let_siblings_begin(self, request: Request) -> None:
        """The prompt will have been computed when the next step runs: the other samples can go on from it,
        ahead of the requests that their own came before."""
        siblings, request.samples.unborn = request.samples.unborn, []
        for sibling in reversed(siblings):
            sibling.origin = request.tables
            self._begin(sibling)

    def _make_room(self) -> None:
        """Let the least deserving give way until all others get the blocks that their next tokens take."""
        if self._blocks.most_growth(len(self._running)) <= self.pool.num_free:
            return
        ranked = sorted(self._running.values(), key=self._policy.rank)
        while ranked and self._growth() > self.pool.num_free:
            self._preempt(ranked.pop())

    def _growth(self) -> int:
        """Blocks that the next step of all running requests takes."""
        growth, prefilling = 0, []
        num_decodes = 0
        for request in self._running.values():
            if self._blocks.has_windows:
                self._blocks.slide(request, request.num_computed)
            if request.num_to_go > 1:
                prefilling.append(request)
            elif not request.must_wait:
                num_decodes += 1
                if request.num_computed >= request.capacity:
                    growth += self._blocks.num_lacking(request, request.num_computed + 1)
        budget = self._budget.prompt_tokens(num_decodes)
        for request in prefilling:
            count = min(budget, request.num_to_go)
            budget -= count
            growth += self._blocks.num_lacking(request, request.num_computed + count)
        return growth

    def _schedule(
        self, request: Request, budget: int, step: StepInFlight, new_blocks: Sequence[list[int]] = ()
    ) -> int:
        """Compute a request's next tokens in this step, at most `budget`; how many they are. `new_blocks`:
        blocks in its table that the runner does not know of."""
        size = self.pool.block_size
        start = request.num_computed
        if self._blocks.has_windows:
            self._blocks.slide(request, start)
        num_prompt = len(request.prompt_token_ids)
        num_tokens = num_prompt + len(request.output_token_ids) + request.num_pending
        samples = num_tokens - start <= budget
        end = num_tokens if samples else start + budget
        if end > request.capacity:
            added = self._blocks.grow(request, end)
            new_blocks = list(map(list.__add__, new_blocks, added)) if new_blocks else added
        if end // size > start // size:
            step.filled.append((request, request.tables, end))
        scored = None
        if request.num_prompt_logprobs is not None and (scored := request.scored_prompt(start, end)):
            step.scored.append(request)
        # Whoever has a pending token has nothing else to compute.
        token_ids = _PENDING if request.num_pending else request.tokens(start, end)
        step.plan.scheduled.append(
            ScheduledTokens(request.slot, start, token_ids, new_blocks, samples, scored)
        )
        step.requests.append(request)
        if samples:
            step.sampling.append(request)
            request.num_pending += 1
        if start < num_prompt:
            self.counters.prompt_tokens += min(end, num_prompt) - start
            if end >= num_prompt and request.samples.unborn:
                step.prompts_done.append(request)
        request.num_computed = end
        request.latest_step = step.plan.step
        return end - start

    def _make_way(self) -> None:
        """Let requests give way to the first in line, if it outranks them and they hold what it lacks."""
        request = self._policy.first()
        if request is None or request.latest_step > self._latest_result:
            return
        needed = self._num_needed(request)
        if self._free_slots and needed <= self.pool.num_free:
            return
        outranked = [running for running in self._running.values() if self._policy.outranks(request, running)]
        if not outranked or needed > self.pool.num_free + sum(map(self._blocks.num_held, outranked)):
            return
        for running in sorted(outranked, key=self._policy.rank, reverse=True):
            self._preempt(running)
            if self._num_needed(request) <= self.pool.num_free:
                return

    def _num_needed(self, request: Request) -> int:
        """Free blocks that it takes to admit a request, with one to spare in each group for each
        running one: who would soon give way had better wait."""
        return self._blocks.num_needed(request) + len(self._running) * self._blocks.num_groups

    def _admit(self, plan: StepPlan) -> Request | None:
        """Let the first in line run, if there is a slot and room for it."""
        if not self._free_slots or (request := self._policy.first()) is None:
            return None
        if request.latest_step > self._latest_result:  # it has just given way
            return None
        if self._num_needed(request) > self.pool.num_free:
            return None
        self._policy.remove(request)
        del self._waiting[request.arrival]
        self._running[request.arrival] = request
        request.slot = self._free_slots.pop()
        plan.copies += self._blocks.begin(request)
        if not request.was_admitted:
            request.was_admitted = True
            request.cached_prompt_tokens = min(request.num_computed, len(request.prompt_token_ids))
            self._policy.admitted(request, request.num_to_go)
            if self._observer is not None:
                self._observer.admitted(request, self._clock())
        return request

    def _wait(self, request: Request, ahead: bool = False) -> None:
        self._waiting[request.arrival] = request
        self._policy.add(request, ahead)

    def _preempt(self, request: Request) -> None:
        """Take a running request's slot and blocks; it waits for its turn to go on."""
        self._leave(request)
        self._wait(request, ahead=True)
        self.counters.preemptions += 1

    def _leave(self, request: Request) -> None:
        """Give back a running request's slot and blocks."""
        del self._running[request.arrival]
        self._blocks.end(request)
        self._free_slots.append(request.slot)
        self._released.append(request.slot)
        request.slot = NO_SLOT

    def _finish(self, request: Request, reason: FinishReason, error: str = "") -> None:
        """End a request, whatever its state, and say so to its channel. Samples that wait for it to compute
        their prompt end with it."""
        if request.slot != NO_SLOT:
            self._leave(request)
        elif self._waiting.pop(request.arrival, None) is not None:
            self._policy.remove(request)
        else:
            del self._held[request.channel][request.arrival]
        self._deadlines.remove(request)
        unborn, request.samples.unborn = request.samples.unborn, []
        self._say_finished(request, reason, error)
        for sibling in unborn:
            self._say_finished(sibling, reason, error)

    def _say_finished(self, request: Request, reason: FinishReason, error: str = "") -> None:
        request.has_ended = True
        request.origin = None
        samples = request.samples
        samples.num_live -= 1
        samples.completion_tokens += len(request.output_token_ids)
        is_last = samples.num_live == 0
        if is_last:
            del self._live[request.request_id]
            self.counters.finished_requests += 1
        if self._observer is not None:
            self._observer.finished(request, reason, self._clock())
        self._outputs.setdefault(request.channel, ChannelOutput()).finished.append(
            Finished(
                request.request_id,
                request.label,
                reason,
                prompt_tokens=len(request.prompt_token_ids),
                completion_tokens=samples.completion_tokens if is_last else len(request.output_token_ids),
                cached_prompt_tokens=samples.members[0].cached_prompt_tokens,
                stop_token_id=request.stop_token_id,
                error=error,
                seed=request.sampling.seed,
                sample_index=request.sampling.sample_index,
                is_last=is_last,
            )
        )
        if is_last:
            samples.members.clear()


def _admission(request: Request) -> Admission:
    # The output grows while the runner reads; the prompt never changes.
    return Admission(
        request.slot,
        request.sampling,
        request.prompt_token_ids,
        request.output_token_ids.copy(),
        request.grammar,
    )


def _blocks_of(request: Request) -> list[list[int]]:
    return [table.blocks.copy() for table in request.tables]


def _expired(request: Request) -> str:
    return (
        f"the request's time was up after {len(request.output_token_ids)} of at most {request.max_tokens} "
        "tokens; give it more time, or ask for fewer tokens"
    )
