"""Throwaway steps that make everything ready which a first use would have to wait for, and show whether the
model computes at all."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tokenwire_engine.models.errors import ModelError
from tokenwire_engine.runner.base import ModelInfo
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.plan import Admission, ScheduledTokens, StepPlan, StepResult


def warm_up_plans(info: ModelInfo, max_running: int) -> Iterator[StepPlan]:
    """A prefill and a decode, one request greedy and, where two fit, one not; then a prefill that yields a
    log-probability; then the slots are free again.

    They leave keys and values behind in the first blocks, which nobody has been told to be valid.
    """
    num_groups = len(info.windows)
    num_requests = min(2, max_running, info.num_blocks // num_groups, info.max_step_tokens)
    length = max(1, min(8, info.max_model_len - 1, info.max_step_tokens // num_requests))
    slots = list(range(num_requests))
    prompt = [0] * length
    yield StepPlan(
        step=0,
        admitted=[
            Admission(slot, SamplingParams(temperature=float(slot), top_p=0.9), prompt, []) for slot in slots
        ],
        scheduled=[
            ScheduledTokens(
                slot, 0, prompt, [[slot * num_groups + group] for group in range(num_groups)], samples=True
            )
            for slot in slots
        ],
    )
    if length < info.max_model_len:
        yield StepPlan(
            step=0, scheduled=[ScheduledTokens(slot, length, [0], [], samples=True) for slot in slots]
        )
    yield StepPlan(
        step=0,
        released=slots,
        admitted=[Admission(0, SamplingParams(temperature=0.0, num_logprobs=0), prompt, [])],
        scheduled=[ScheduledTokens(0, 0, prompt, [list(range(num_groups))], samples=True)],
    )
    yield StepPlan(step=0, released=[0])


def check_is_finite(result: StepResult, dtype: str) -> None:
    """
    Raises:
        ModelError: what the model computes is no number.
    """
    for logprobs in result.logprobs.values():
        if not all(map(math.isfinite, logprobs.token_logprobs)):
            raise ModelError(
                "the model's logits are not finite: its weights hold NaN or infinity, or it overflows in "
                f"{dtype}; download the checkpoint again, or choose another --dtype"
            )
