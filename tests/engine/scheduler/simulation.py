"""Drives a scheduler over the hash runner, which asserts that every plan is sound."""

from __future__ import annotations

from collections import Counter, deque

from tests.engine.hash_runner import HashRunner, model_info
from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.kv_cache.host_tier import HostTier
from tokenwire_engine.kv_cache.prefix_cache import PrefixCache
from tokenwire_engine.kv_cache.prefix_node import PrefixChain
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.outputs import Finished
from tokenwire_engine.scheduler.plan import StepPlan
from tokenwire_engine.scheduler.policy import make_policy
from tokenwire_engine.scheduler.request import FinishReason, Request
from tokenwire_engine.scheduler.scheduler import Scheduler, SchedulerLimits


class Simulation:
    """Submits requests numbered 0, 1, 2, ...; their ids are those numbers, and their labels too.

    Attributes:
        requests: all of them, each sample by itself.
        delivered: tokens delivered, by request; only of its first sample.
        samples: tokens delivered, by request and sample.
        finished: last ends delivered, by request.
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
        overlap: bool = False,
        windows: tuple[int, ...] = (0,),
        num_host_blocks: int = 0,
    ) -> None:
        """`overlap`: whether each step but the last is followed by another before it completes."""
        self.now = 0.0
        self.pool = BlockPool(num_blocks, block_size)
        self.policy = make_policy(policy)
        self.host = HostTier(num_host_blocks) if num_host_blocks else None
        self.prefix_cache = PrefixCache(self.pool, windows, self.host) if prefix_cache else None
        self.scheduler = Scheduler(
            SchedulerLimits(max_running, max_step_tokens, max_model_len, windows=windows),
            self.pool,
            self.policy,
            self.prefix_cache,
            clock=lambda: self.now,
        )
        info = model_info(
            num_blocks=num_blocks, block_size=block_size, max_step_tokens=max_step_tokens, windows=windows
        )
        self.runner = HashRunner(info)
        self.requests: list[Request] = []
        self.delivered: list[list[int]] = []
        self.samples: list[dict[int, list[int]]] = []
        self.finished: dict[int, Finished] = {}
        self._ends: dict[tuple[int, int], FinishReason] = {}
        self._steps_ahead = 1 if overlap else 0
        self._launched: deque[StepPlan] = deque()

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
        num_samples: int = 1,
    ) -> int:
        number = len(self.delivered)
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
            num_samples=num_samples,
        )
        self.scheduler.submit(request)
        self.requests += request.samples.members or [request]
        self.samples.append({sample: [] for sample in range(num_samples)})
        self.delivered.append(self.samples[number][0])
        return number

    def step(self) -> StepPlan | None:
        """The next step; when none is planned, those in flight complete."""
        plan = self.scheduler.plan()
        self.now += 1
        if plan is not None:
            self.runner.launch(plan)
            self._launched.append(plan)
            self._constrain_if_alone(plan)
        while len(self._launched) > (0 if plan is None else self._steps_ahead):
            self._complete()
        self.take_outputs()
        return plan

    def _complete(self) -> None:
        try:
            result = self.runner.collect()
        except RuntimeError as error:
            self._launched.clear()
            self.scheduler.fail(str(error))
        else:
            self.scheduler.complete(result)
            self._launched.popleft()
            if self._launched:
                self._constrain_if_alone(self._launched[0])

    def _constrain_if_alone(self, plan: StepPlan) -> None:
        if plan.constrained and plan is self._launched[0]:
            self.runner.constrain(self.scheduler.masks())

    def fail_next_step(self) -> None:
        """Let the next step that is waited for fail."""
        self.runner.fail_collect = RuntimeError("out of luck")

    def is_whole(self, number: int, sample: int) -> bool:
        """Whether a sample came to its own end."""
        return self._ends[number, sample] in (FinishReason.LENGTH, FinishReason.STOP)

    def take_outputs(self) -> None:
        for channel, output in self.scheduler.take_outputs().items():
            indices = output.sample_indices or [0] * len(output.labels)
            for label, sample, token in zip(output.labels, indices, output.token_ids, strict=True):
                assert label % 3 == channel
                assert label not in self.finished, "a token after the end"
                self.samples[label][sample].append(token)
            for finished in output.finished:
                sample = finished.label, finished.sample_index
                assert sample not in self._ends, "a second end"
                self._ends[sample] = finished.reason
                if finished.is_last:
                    self.finished[finished.label] = finished

    def run(self, max_steps: int = 100_000) -> None:
        """Step until all is done."""
        for _ in range(max_steps):
            if self.step() is None and not self.scheduler.has_work:
                break
        assert not self.scheduler.has_work, "requests are left after as many steps as they could need"
        assert len(self.finished) == len(self.delivered)
        assert self.pool.num_free == self.pool.num_blocks

    def check(self) -> None:
        """Nobody but running requests holds blocks, each as often as it is in a table, and every other block
        is free or idle."""
        tables = Counter(
            block for request in self.requests for table in request.tables for block in table.held
        )
        assert all(self.pool.holders(block) == tables[block] for block in range(self.pool.num_blocks))
        assert self.pool.num_free == self.pool.num_blocks - len(tables)
        shares = self.prefix_cache or any(request.num_samples > 1 for request in self.requests)
        assert shares or max(tables.values(), default=1) == 1
