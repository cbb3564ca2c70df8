"""Steps on a thread of their own: in order, whatever fails."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from tests.engine.grammars import mask_of
from tests.engine.hash_runner import VOCAB_SIZE, HashRunner, continuation
from tokenwire_engine.runner.background import BackgroundRunner
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.plan import PENDING, Admission, ScheduledTokens, StepPlan, TokenMasks

PROMPT = [1, 2, 3]


def prefill(step: int = 0) -> StepPlan:
    admission = Admission(0, SamplingParams(), PROMPT, [])
    return StepPlan(
        step, admitted=[admission], scheduled=[ScheduledTokens(0, 0, PROMPT, [[0]], samples=True)]
    )


def decode(step: int) -> StepPlan:
    row = ScheduledTokens(0, len(PROMPT) + step - 1, [PENDING], [], samples=True)
    return StepPlan(step, scheduled=[row])


def test_results_come_in_the_order_of_the_launches() -> None:
    runner = BackgroundRunner(HashRunner())
    runner.launch(prefill())
    runner.launch(decode(1))
    results = [runner.collect(), runner.collect()]
    assert [result.step for result in results] == [0, 1]
    assert [result.token_ids[0] for result in results] == continuation(PROMPT, 2)
    runner.close()


def test_a_launch_does_not_wait_for_the_step() -> None:
    inner = HashRunner()
    inner.hold()
    runner = BackgroundRunner(inner)
    runner.launch(prefill())
    inner.resume()
    assert runner.collect().token_ids == continuation(PROMPT, 1)
    runner.close()


def test_the_thread_that_is_pinned_is_the_one_that_computes() -> None:
    inner, names = HashRunner(), []
    inner.pin_thread = lambda: names.append(threading.current_thread().name)  # type: ignore[method-assign]
    runner = BackgroundRunner(inner)
    runner.pin_thread()
    assert names == ["runner"]
    runner.close()


def test_a_failure_loses_the_launches_behind_it_and_the_next_are_served() -> None:
    inner = HashRunner()
    runner = BackgroundRunner(inner)
    inner.fail_next = RuntimeError("out of luck")
    runner.launch(prefill(0))
    runner.launch(decode(1))
    with pytest.raises(RuntimeError, match="out of luck"):
        runner.collect()
    runner.launch(StepPlan(2, released=[0], admitted=prefill().admitted, scheduled=prefill().scheduled))
    assert runner.collect().step == 2
    runner.close()


def test_a_constrained_step_is_computed_before_and_sampled_once_it_has_its_masks() -> None:
    runner = BackgroundRunner(HashRunner())
    runner.launch(replace(prefill(), constrained=[0]))
    runner.constrain(TokenMasks([0], bytearray(mask_of([500], VOCAB_SIZE))))
    runner.launch(replace(decode(1), constrained=[0]))
    assert runner.collect().token_ids == [500]
    runner.constrain(TokenMasks([0], bytearray(mask_of([600], VOCAB_SIZE))))
    runner.launch(decode(2))
    assert [runner.collect().token_ids, runner.collect().token_ids] == [
        [600],
        continuation([*PROMPT, 500, 600], 1),
    ]
    runner.close()


def test_masks_for_a_step_that_has_failed_are_passed_over() -> None:
    inner = HashRunner()
    runner = BackgroundRunner(inner)
    inner.fail_next = RuntimeError("out of luck")
    runner.launch(replace(prefill(), constrained=[0]))
    runner.constrain(TokenMasks([0], bytearray(mask_of([500], VOCAB_SIZE))))
    with pytest.raises(RuntimeError, match="out of luck"):
        runner.collect()
    runner.launch(replace(prefill(1), released=[0]))
    assert runner.collect().token_ids == continuation(PROMPT, 1)
    runner.close()


def test_close_ends_the_thread() -> None:
    before = threading.enumerate()
    runner = BackgroundRunner(HashRunner())
    runner.launch(prefill())
    runner.close()
    assert set(threading.enumerate()) <= set(before)
