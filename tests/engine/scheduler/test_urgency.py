"""Which outputs may wait for those of further steps, and which may not."""

from __future__ import annotations

import pytest

from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.sampling.logprobs import Logprobs
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.plan import StepResult
from tokenwire_engine.scheduler.request import Request
from tokenwire_engine.scheduler.scheduler import Scheduler, SchedulerLimits


@pytest.fixture
def scheduler() -> Scheduler:
    """Of one request of four tokens, the first of which has just been taken."""
    scheduler = Scheduler(SchedulerLimits(4, 64, 256), BlockPool(16, 16))
    scheduler.submit(Request("a", [1, 2], SamplingParams(), max_tokens=4))
    step(scheduler)
    assert scheduler.has_urgent_outputs, "it is a first token"
    scheduler.take_outputs()
    return scheduler


def step(scheduler: Scheduler, logprobs: dict[int, Logprobs] | None = None) -> None:
    plan = scheduler.plan()
    assert plan is not None
    scheduler.complete(StepResult(plan.step, [0], [7], logprobs or {}))


def test_nothing_is_not_urgent(scheduler: Scheduler) -> None:
    assert not scheduler.has_urgent_outputs


def test_further_tokens_may_wait(scheduler: Scheduler) -> None:
    step(scheduler)
    step(scheduler)
    assert not scheduler.has_urgent_outputs
    assert scheduler.take_outputs()[0].token_ids == [7, 7]


def test_the_last_token_may_not(scheduler: Scheduler) -> None:
    for _ in range(3):
        step(scheduler)
    assert scheduler.has_urgent_outputs


def test_log_probabilities_may_not(scheduler: Scheduler) -> None:
    step(scheduler, {0: Logprobs(0, [-1.0], [1])})
    assert scheduler.has_urgent_outputs


def test_an_end_from_outside_may_not(scheduler: Scheduler) -> None:
    scheduler.cancel("a")
    assert scheduler.has_urgent_outputs
