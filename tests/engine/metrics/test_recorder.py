"""What is measured, on a clock that the test moves."""

from __future__ import annotations

import pytest

from tests.engine.hash_runner import HashRunner
from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.metrics.histogram import Histogram
from tokenwire_engine.metrics.recorder import Recorder
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.request import FinishReason, Request
from tokenwire_engine.scheduler.scheduler import Scheduler, SchedulerLimits


class Measured:
    """A scheduler with a runner, a recorder and a clock."""

    def __init__(self, max_running: int = 8, num_blocks: int = 64) -> None:
        self.now_s = 100.0
        self.recorder = Recorder()
        self.runner = HashRunner()
        limits = SchedulerLimits(max_running, self.runner.info.max_step_tokens, 256)
        pool = BlockPool(num_blocks, self.runner.info.block_size)
        self.scheduler = Scheduler(limits, pool, clock=lambda: self.now_s, observer=self.recorder)

    def submit(self, request_id: str, prompt: list[int], max_tokens: int) -> None:
        self.scheduler.submit(Request(request_id, prompt, SamplingParams(), max_tokens))

    def step(self, seconds: float) -> None:
        """A step that takes so long."""
        plan = self.scheduler.plan()
        assert plan is not None
        self.runner.launch(plan)
        self.now_s += seconds
        self.scheduler.complete(self.runner.collect())


def total(histogram: Histogram) -> tuple[int, float]:
    """How many values there were, and their sum."""
    return sum(histogram.counts), pytest.approx(histogram.sum)


def test_a_value_is_counted_by_the_first_bound_that_is_not_below_it() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(1.0, 3)
    histogram.observe(1.5)
    histogram.observe(9.0)
    assert histogram.counts == [3, 1, 1]
    assert histogram.sum == 13.5


def test_a_request_is_timed_from_its_arrival_to_its_end() -> None:
    measured = Measured()
    measured.submit("a", [1] * 100, max_tokens=3)
    measured.now_s += 0.5
    for seconds in (1.0, 2.0, 0.25, 0.75):  # the prompt takes two steps
        measured.step(seconds)
    recorder = measured.recorder
    assert total(recorder.queue_time) == (1, 0.5)
    assert total(recorder.time_to_first_token) == (1, 3.5)
    assert total(recorder.prefill_time) == (1, 3.0)
    assert total(recorder.inter_token_latency) == (2, 1.0)
    assert total(recorder.decode_time) == (1, 1.0)
    assert total(recorder.inference_time) == (1, 4.0)
    assert total(recorder.e2e_latency) == (1, 4.5)
    assert total(recorder.request_prompt_tokens) == (1, 100)
    assert total(recorder.request_generation_tokens) == (1, 3)
    assert recorder.prompt_tokens == 100
    assert recorder.num_finished == {FinishReason.LENGTH: 1}


def test_every_step_counts_its_requests_and_its_tokens() -> None:
    measured = Measured()
    measured.submit("a", [1] * 10, max_tokens=2)
    measured.submit("b", [2] * 20, max_tokens=2)
    measured.step(1.0)
    measured.step(1.0)
    assert total(measured.recorder.step_requests) == (2, 4)
    assert total(measured.recorder.step_tokens) == (2, 32)


def test_the_time_between_tokens_is_one_value_for_each_request_of_a_step() -> None:
    measured = Measured()
    for number in range(5):
        measured.submit(str(number), [number + 1], max_tokens=3)
    for _ in range(3):
        measured.step(0.03)
    assert total(measured.recorder.inter_token_latency) == (10, 0.3)
    assert max(measured.recorder.inter_token_latency.counts) == 10


def test_a_preemption_lengthens_the_time_to_the_next_token() -> None:
    measured = Measured(num_blocks=6)
    measured.submit("a", [1] * 30, max_tokens=30)
    measured.submit("b", [2] * 30, max_tokens=30)
    while measured.scheduler.has_work:
        measured.step(0.01)
    recorder = measured.recorder
    assert measured.scheduler.counters.preemptions > 0
    assert total(recorder.queue_time)[0] == total(recorder.time_to_first_token)[0] == 2
    count, seconds = total(recorder.inter_token_latency)
    assert count == 58
    assert recorder.decode_time.sum == seconds


def test_a_request_that_is_cancelled_counts_as_ended_and_has_no_latency() -> None:
    measured = Measured()
    measured.submit("a", [1], max_tokens=30)
    measured.step(1.0)
    measured.scheduler.cancel("a")
    assert measured.recorder.num_finished == {FinishReason.CANCELLED: 1}
    assert total(measured.recorder.e2e_latency) == (0, 0)
