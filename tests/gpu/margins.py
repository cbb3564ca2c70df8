"""Whether two runs of a model chose the same tokens wherever the choice was clear.

Another dtype, another order of sums: logits differ in their last digits, and a greedy choice between two
tokens that are that near may go either way; what follows is then another text. So runs are compared up to
their first difference, which must be at such a place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenwire_engine.runner.local import LocalRunner
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.plan import Admission, ScheduledTokens, StepPlan

WITH_RIVAL = SamplingParams(temperature=0.0, num_logprobs=2)


@dataclass(slots=True)
class Choices:
    """One request's greedy tokens, and by how much each was ahead of the second best."""

    token_ids: list[int]
    margins: list[float]
    """Differences of log-probabilities."""


def choices(runner: LocalRunner, prompts: Sequence[list[int]], num_tokens: int) -> list[Choices]:
    """Decode prompts together, each in the slot of its index."""
    blocks = -(-(max(map(len, prompts)) + num_tokens) // runner.info.block_size)
    found = [Choices([], []) for _ in prompts]
    for step in range(num_tokens):
        plan = StepPlan(step)
        for slot, prompt in enumerate(prompts):
            if step == 0:
                plan.admitted.append(Admission(slot, WITH_RIVAL, prompt, []))
            new = [range(slot * blocks, (slot + 1) * blocks)] if step == 0 else []
            tokens = prompt if step == 0 else found[slot].token_ids[-1:]
            start = 0 if step == 0 else len(prompt) + step - 1
            plan.scheduled.append(ScheduledTokens(slot, start, tokens, new, samples=True))
        runner.launch(plan)
        result = runner.collect()
        for index, slot in enumerate(result.slots):
            first, second = result.logprobs[index].top_logprobs
            found[slot].token_ids.append(result.token_ids[index])
            found[slot].margins.append(first - second)
    runner.launch(StepPlan(num_tokens, released=list(range(len(prompts)))))
    runner.collect()
    return found


def agreed(expected: Sequence[Choices], actual: Sequence[Choices], error: float) -> int:
    """How many tokens were compared.

    Args:
        error: how far two logits can move apart between the two runs.

    Raises:
        AssertionError: the runs differ first where `expected` was sure.
    """
    compared = 0
    for request, (ours, theirs) in enumerate(zip(expected, actual, strict=True)):
        for place, (a, b, margin) in enumerate(
            zip(ours.token_ids, theirs.token_ids, ours.margins, strict=True)
        ):
            if a != b:
                assert margin <= error, f"request {request}, token {place}: {a} by {margin:.3f}, but {b}"
                break
            compared += 1
    return compared
