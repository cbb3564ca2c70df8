"""Drives a scheduler over the hash runner, which asserts that every plan is sound."""

from __future__ import annotations

from collections import Counter

from tests.engine.hash_runner import HashRunner, model_info
from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.kv_cache.prefix_cache import PrefixCache, PrefixChain
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.outputs import Finished
from tokenwire_engine.scheduler.plan import StepPlan
from tokenwire_engine.scheduler.policy import make_policy
from tokenwire_engine.scheduler.request import Request
from tokenwire_engine.scheduler.scheduler import Scheduler, SchedulerLimits


class Simulation:
    """Submits requests numbered 0, 1, 2, ...; their ids are those numbers, and their labels too.

    Attributes:
        delivered: tokens delivered, by request.
        finished: ends delivered, by request.
        now: seconds by the scheduler's clock; a step takes one.
    """

    def __init__(
        self,
        num_blocks: int = 64,
        max_running: int = 8,
        max_step_tokens: int = 64,
        max_model_len: int = 256,
        block_size: int = 16,
        policy: str = "fcfs",
        prefix_cache: bool = True,
    ) -> None:
        self.now = 0.0
        self.pool = BlockPool(num_blocks, block_size)
        self.policy = make_policy(policy)
        self.prefix_cache = PrefixCache(self.pool) if prefix_cache else None
        self.scheduler = Scheduler(
            SchedulerLimits(max_running, max_step_tokens, max_model_len),
            self.pool,
            self.policy,
            self.prefix_cache,
            clock=lambda: self.now,
        )
        info = model_info(num_blocks=num_blocks, block_size=block_size, max_step_tokens=max_step_tokens)
        self.runner = HashRunner(info)
        self.requests: list[Request] = []
        self.delivered: list[list[int]] = []
        self.finished: dict[int, Finished] = {}

    def submit(
        self,
        prompt: list[int],
        max_tokens: int = 8,
        output: tuple[int, ...] = (),
        stop: frozenset[int] = frozenset(),
        priority: int = 0,
        tenant: str = "",
        salt: str = "",
        timeout_s: float | None = None,
    ) -> int:
        number = len(self.requests)
        request = Request(
            str(number),
            prompt,
            SamplingParams(),
            max_tokens,
            stop,
            list(output),
            channel=number % 3,
            label=number,
            priority=priority,
            tenant=tenant,
            cache=PrefixChain(("", salt)),
            deadline_s=None if timeout_s is None else self.now + timeout_s,
        )
        self.scheduler.submit(request)
        self.requests.append(request)
        self.delivered.append([])
        return number

    def step(self) -> StepPlan | None:
        """One step, all of it."""
        plan = self.scheduler.plan()
        self.now += 1
        if plan is not None:
            self.runner.launch(plan)
            self.scheduler.complete(self.runner.collect())
        self.take_outputs()
        return plan

    def take_outputs(self) -> None:
        for channel, output in self.scheduler.take_outputs().items():
            for label, token in zip(output.labels, output.token_ids, strict=True):
                assert label % 3 == channel
                assert label not in self.finished, "a token after the end"
                self.delivered[label].append(token)
            for finished in output.finished:
                assert finished.label not in self.finished, "a second end"
                self.finished[finished.label] = finished

    def run(self, max_steps: int = 100_000) -> None:
        """Step until all is done."""
        for _ in range(max_steps):
            if self.step() is None:
                break
        assert not self.scheduler.has_work, "requests are left after as many steps as they could need"
        assert len(self.finished) == len(self.requests)
        assert self.pool.num_free == self.pool.num_blocks

    def check(self) -> None:
        """Nobody but running requests holds blocks, each as often as it is in a table, and every other block
        is free or idle."""
        tables = Counter(block for request in self.requests for block in request.table.blocks)
        assert all(self.pool.holders(block) == tables[block] for block in range(self.pool.num_blocks))
        assert self.pool.num_free == self.pool.num_blocks - len(tables)
        assert self.prefix_cache or max(tables.values(), default=1) == 1
