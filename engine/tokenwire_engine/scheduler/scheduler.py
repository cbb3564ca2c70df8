"""Iteration-level continuous batching with one token budget per step (Orca, OSDI 2022; chunked prefill as
in Sarathi-Serve, OSDI 2024).

Plans may run ahead of results: a request whose latest token is not known yet can be planned to compute it all
the same. One that turns out to have ended with that token has then computed one token too many, which is
discarded. Steps run in the order of their plans, so slots can be given to others while a launched step still
uses them.

A full block can be found by other requests once the step that computed its last token has completed, so that
a step that failed has left nothing to be found.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.kv_cache.changes import Change
from tokenwire_engine.kv_cache.groups import longest_sequence
from tokenwire_engine.kv_cache.prefix_cache import PrefixCache
from tokenwire_engine.scheduler.admission import AdmissionControl
from tokenwire_engine.scheduler.block_manager import BlockManager
from tokenwire_engine.scheduler.counters import Counters
from tokenwire_engine.scheduler.deliveries import Deliveries
from tokenwire_engine.scheduler.fcfs import FirstComeFirstServed
from tokenwire_engine.scheduler.forced_tokens import ForcedTokens
from tokenwire_engine.scheduler.in_flight import StepInFlight
from tokenwire_engine.scheduler.lifecycle import Lifecycle
from tokenwire_engine.scheduler.observer import Observer
from tokenwire_engine.scheduler.outputs import Outputs
from tokenwire_engine.scheduler.plan import StepPlan, StepResult, TokenMasks
from tokenwire_engine.scheduler.policy import Policy
from tokenwire_engine.scheduler.request import NO_SLOT, FinishReason, Request
from tokenwire_engine.scheduler.running import Running
from tokenwire_engine.scheduler.step_budget import StepBudget


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
        self._running = Running(limits.max_running, self._blocks, self._budget)
        self.context_limit = longest_sequence(
            pool.num_blocks, limits.windows, pool.block_size, limits.max_step_tokens, limits.max_model_len
        )
        self._policy = policy or FirstComeFirstServed()
        self._admission = AdmissionControl(self._running, self._blocks, self._policy, self.counters)
        self._deliveries = Deliveries()
        self._lifecycle = Lifecycle(
            self._admission, self._blocks, self._deliveries, self.counters, clock, observer
        )
        self._forced = ForcedTokens(self._running, self._deliveries, self.counters, pool.block_size)
        self._prefix_cache = prefix_cache
        self._clock = clock
        self._observer = observer
        self._in_flight: deque[StepInFlight] = deque()

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return self._admission.num_waiting

    @property
    def num_cached_blocks(self) -> int:
        """Blocks whose content other requests can find."""
        return 0 if self._prefix_cache is None else self._prefix_cache.num_blocks

    @property
    def has_work(self) -> bool:
        """Whether there is something to plan, now or once the steps in flight have completed."""
        return self._admission.has_work

    def submit(self, request: Request) -> None:
        """Queue a request. One whose known tokens already end it is finished at once.

        Raises:
            ValueError: when its id is in use, or not even one more token could ever fit.
        """
        if request.num_tokens >= self.context_limit:
            raise ValueError(
                f"the request has {request.num_tokens} tokens and needs room for at least one more; the "
                f"context holds {self.context_limit} (the KV cache has {self.pool.num_blocks} blocks of "
                f"{self.pool.block_size} tokens)"
            )
        self._lifecycle.submit(request, self.context_limit)

    def cancel(self, request_id: str) -> None:
        """End a request, all of its samples; one that has ended already is left alone."""
        self._lifecycle.cancel(request_id)

    def hand_back(self) -> None:
        """End every request, for its caller to continue it elsewhere."""
        for request in list(self._admission):
            self._lifecycle.finish(request, FinishReason.HANDED_BACK)

    def hold(self, channel: int) -> None:
        """Set a channel's requests aside: until `resume`, none of them has a slot or a block, and no other
        waits for them."""
        self._admission.hold(channel)

    def resume(self, channel: int) -> None:
        """Let a channel's requests go on, ahead of those that the policy holds equal: they have waited
        longer."""
        self._admission.resume(channel)

    def plan(self) -> StepPlan | None:
        """The next step, or None when there is nothing to compute (before the steps in flight complete)."""
        self._lifecycle.expire()
        self._running.slide()
        self._admission.make_way()
        num_waiting = self._admission.num_waiting_for_first_token()
        self._admission.make_room(num_waiting)
        step = StepInFlight(StepPlan(self.counters.steps))
        # Decodes first, so that no prompt, however long, holds up the others' next tokens.
        prefilling = self._running.decode(step)
        budget = at_most = self._budget.prompt_tokens(step.num_decodes, num_waiting) if num_waiting else 0
        for request in prefilling:
            if budget > 0:
                budget -= self._running.compute(request, budget, step)

        # Only with tokens to spare, so that there are never more requests running than tokens in a step.
        while budget > 0 and (admitted := self._admit(step.plan)):
            tables = [table.blocks.copy() for table in admitted.tables]
            budget -= self._running.compute(admitted, budget, step, tables)

        if not step.num_requests:
            return None
        step.num_prefilled = at_most - budget
        self._start(step)
        return step.plan

    def _admit(self, plan: StepPlan) -> Request | None:
        """Let the first in line run, if there is a slot and room for it."""
        request = self._admission.admit(plan)
        if request is not None and not request.was_admitted:
            request.was_admitted = True
            request.cached_prompt_tokens = min(request.num_computed, len(request.prompt_token_ids))
            self._policy.admitted(request, request.num_to_go)
            if self._observer is not None:
                self._observer.admitted(request, self._clock())
        return request

    def _start(self, step: StepInFlight) -> None:
        """A plan is made: it is on its way."""
        for request in step.prompts_done:
            self._lifecycle.let_siblings_begin(request)
        step.plan.released = self._running.take_released()
        step.plan.constrained = step.constrained()
        if self._prefix_cache is not None:
            step.plan.host_moves = self._prefix_cache.take_host_moves()
        self.counters.steps += 1
        self.counters.prompt_tokens += step.num_prompt_tokens
        if self._observer is not None:
            self._observer.planned(step.num_requests, step.num_decodes + step.num_prefilled)
        self._in_flight.append(step)

    def masks(self) -> TokenMasks:
        """What the grammars allow the oldest uncompleted plan to sample."""
        return self._in_flight[0].masks()

    def complete(self, result: StepResult, seconds: float | None = None) -> None:
        """Take in what the oldest uncompleted plan yielded, and how long it took where that was measured.

        Raises:
            ValueError: when it is not that plan's result.
        """
        step = self._in_flight[0]
        if result.step != step.plan.step or len(result.token_ids) != step.num_tokens:
            raise ValueError(
                f"step {result.step} with {len(result.token_ids)} tokens; expected step {step.plan.step} "
                f"with {step.num_tokens}"
            )
        self._in_flight.popleft()
        self._admission.latest_result = result.step
        if seconds is not None:
            self._budget.observe(seconds, step.num_decodes, step.num_prefilled)
        self._blocks.keep_filled(step.filled)
        self._blocks.keep_all(step.decodes_filled)
        self._deliveries.prompt_logprobs(step.scored, result.prompt_logprobs)
        self._deliveries.logprobs(
            [(step.sampled_for(index), scored) for index, scored in result.logprobs.items()]
        )
        self._take_tokens(step, result.token_ids)

    def _take_tokens(self, step: StepInFlight, token_ids: list[int]) -> None:
        """The next tokens of a step's requests are known. Those of requests that have ended are discarded:
        they ended while the step ran, or with the token of the step before. So are those that were
        foreseen."""
        num_decoding = len(step.decoding)
        rows, row_tokens, left = self._running.split(step.decoding, token_ids[:num_decoding])
        by_themselves = [*left, *zip(step.sampling, token_ids[num_decoding:], strict=True)]
        others = [pair for pair in by_themselves if pair[0].awaits_sample]
        for request, _ in by_themselves:
            request.num_foreseen = max(0, request.num_foreseen - 1)
        if self._observer is not None:
            self._observer.generated(
                [*rows.columns.requests, *(request for request, _ in others)], self._clock()
            )
        ends = self._deliveries.steady_tokens(rows, row_tokens) + self._deliveries.tokens(others)
        for request, reason, error in ends:
            self._lifecycle.finish(request, reason, error)
        self.counters.generated_tokens += len(rows) + len(others)
        for request, _ in others:
            if not request.has_ended and (end := self._forced.take(request)) is not None:
                self._lifecycle.finish(*end)
        self._policy.generated(rows.columns.requests)
        self._policy.generated(request for request, _ in others)

    def fail(self, error: str) -> None:
        """The oldest step in flight failed: its requests end with an error, and nothing of them stays. Those
        of the steps behind it, which are lost with it, wait for their turn to compute the same again."""
        failed = self._in_flight.popleft()
        lost = list(self._in_flight)
        self._in_flight.clear()
        if any(step.plan.host_moves for step in (failed, *lost)):
            self.reset_prefix_cache()  # who knows which of them were made
        lost_requests: set[int] = set()
        for step in (failed, *lost):
            self._admission.latest_result = step.plan.step
            # The runner may not have come to the plan's own releases.
            self._running.release_again(step.plan.released)
            for request in step.requests:
                self._running.stop_decoding(request)
                request.num_pending = request.num_foreseen = 0
                lost_requests.add(request.arrival)
        for request in failed.requests:
            if request.slot != NO_SLOT:
                self._lifecycle.finish(request, FinishReason.ERROR, error)
        for request in reversed(self._running):
            if request.arrival in lost_requests:
                self._admission.preempt(request)

    @property
    def has_urgent_outputs(self) -> bool:
        """Whether something has happened that should not wait for the tokens of further steps: a first
        token, an end, or log-probabilities, which make messages large."""
        return self._deliveries.is_urgent

    def take_outputs(self) -> Outputs:
        """What happened since the last call."""
        return self._deliveries.take()

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
