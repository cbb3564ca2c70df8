"""Drives a scheduler over the hash runner, which asserts that every plan is sound."""

from __future__ import annotations

from tests.engine.hash_runner import HashRunner, model_info
from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.outputs import Finished
from tokenwire_engine.scheduler.plan import StepPlan
from tokenwire_engine.scheduler.request import Request
from tokenwire_engine.scheduler.scheduler import Scheduler, SchedulerLimits


class Simulation:
    """Submits requests numbered 0, 1, 2, ...; their ids are those numbers, and their labels too.

    Attributes:
        delivered: tokens delivered, by request.
        finished: ends delivered, by request.
    """

    def __init__(
        self,
        num_blocks: int = 64,
        max_running: int = 8,
        max_step_tokens: int = 64,
        max_model_len: int = 256,
        block_size: int = 16,
    ) -> None:
        self.pool = BlockPool(num_blocks, block_size)
        self.scheduler = Scheduler(SchedulerLimits(max_running, max_step_tokens, max_model_len), self.pool)
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
        )
        self.scheduler.submit(request)
        self.requests.append(request)
        self.delivered.append([])
        return number

    def step(self) -> StepPlan | None:
        """One step, all of it."""
        plan = self.scheduler.plan()
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
        """Nobody but running requests holds a block, each block once, in tables as long as they must be."""
        held = [block for request in self.requests for block in request.table.blocks]
        assert len(set(held)) == len(held)
        assert self.pool.num_free == self.pool.num_blocks - len(held)
        assert all(self.pool.holders(block) == 1 for block in held)
