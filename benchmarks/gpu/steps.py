"""Steps of decodes on a runner, planned by hand: as many as wanted, each launched before the last is done."""

from __future__ import annotations

import time

from benchmarks.gpu.models import BLOCK_SIZE
from tokenwire_engine.runner.local import LocalRunner
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.plan import PENDING, Admission, ScheduledTokens, StepPlan

GREEDY = SamplingParams(temperature=0.0)


class Decoding:
    """Sequences that all have the same past, of whatever the cache holds, and grow together.

    Attributes:
        tokens: of every step, one for each sequence.
    """

    def __init__(self, runner: LocalRunner, num_seqs: int, context: int, num_steps: int) -> None:
        """Blocks for `num_steps` further tokens are given at the beginning."""
        self._runner = runner
        self._num_seqs = num_seqs
        self._position = context - 1
        self._step = 0
        self._blocks = -(-(context + num_steps) // BLOCK_SIZE)
        self.tokens: list[list[int]] = []
        runner.launch(self._plan(admits=True))
        self._collect()

    def run(self, num_steps: int) -> float:
        """Seconds that so many steps take, the host one ahead of the device."""
        begin = time.perf_counter()
        self._runner.launch(self._plan())
        for _ in range(num_steps - 1):
            self._runner.launch(self._plan())
            self._collect()
        self._collect()
        return time.perf_counter() - begin

    def close(self) -> None:
        """Give the slots back."""
        self._runner.launch(StepPlan(self._step, released=list(range(self._num_seqs))))
        self._runner.collect()

    def _collect(self) -> None:
        self.tokens.append(self._runner.collect().token_ids)

    def _plan(self, admits: bool = False) -> StepPlan:
        slots = range(self._num_seqs)
        plan = StepPlan(self._step)
        if admits:
            plan.admitted = [Admission(slot, GREEDY, [1] * (self._position + 1), []) for slot in slots]
        for slot in slots:
            first = slot * self._blocks
            blocks = [range(first, first + self._blocks)] if admits else []
            token = 1 if admits else PENDING
            plan.scheduled.append(ScheduledTokens(slot, self._position, [token], blocks, samples=True))
        self._position += 1
        self._step += 1
        return plan
