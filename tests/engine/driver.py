"""A scheduler in thirty lines: drives a runner with plans made by hand, so that tests need no other part."""

from __future__ import annotations

from collections.abc import Sequence

from tokenwire_engine.runner.base import Runner
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.plan import Admission, ScheduledTokens, StepPlan

GREEDY = SamplingParams(temperature=0.0)


def ignore_progress(phase: str, fraction: float | None = None) -> None:
    """For runners whose loading nobody watches."""


def generate(
    runner: Runner,
    prompts: Sequence[list[int]],
    num_tokens: int,
    *,
    sampling: Sequence[SamplingParams] | SamplingParams = GREEDY,
    resumed: Sequence[list[int]] | None = None,
    step_tokens: int = 512,
) -> list[list[int]]:
    """Output tokens of requests that run together, each in the slot of its index.

    Args:
        num_tokens: of every request, those in `resumed` included.
        resumed: tokens that each request already has.
        step_tokens: most tokens in one step, which cuts longer prompts into chunks.
    """
    if isinstance(sampling, SamplingParams):
        sampling = [sampling] * len(prompts)
    outputs = [list(tokens) for tokens in resumed] if resumed else [[] for _ in prompts]
    computed, num_blocks, next_block = [0] * len(prompts), [0] * len(prompts), 0
    num_groups = len(runner.info.windows)
    admitted = [
        Admission(slot, params, prompt, list(outputs[slot]))
        for slot, (prompt, params) in enumerate(zip(prompts, sampling, strict=True))
    ]
    for step in range(10_000):
        plan = StepPlan(step, admitted=admitted if step == 0 else [])
        budget = step_tokens
        for slot, prompt in enumerate(prompts):
            tokens = prompt + outputs[slot]
            count = min(budget, len(tokens) - computed[slot])
            if len(outputs[slot]) >= num_tokens or count == 0:
                continue
            start, end = computed[slot], computed[slot] + count
            needed = -(-end // runner.info.block_size) - num_blocks[slot]
            end_block = next_block + needed * num_groups
            blocks = [list(range(next_block + group, end_block, num_groups)) for group in range(num_groups)]
            plan.scheduled.append(
                ScheduledTokens(slot, start, tokens[start:end], blocks, samples=end == len(tokens))
            )
            computed[slot], num_blocks[slot] = end, num_blocks[slot] + needed
            next_block = end_block
            budget -= count
        if not plan.scheduled:
            runner.launch(StepPlan(step, released=list(range(len(prompts)))))
            runner.collect()
            return outputs
        runner.launch(plan)
        result = runner.collect()
        for slot, token in zip(result.slots, result.token_ids, strict=True):
            outputs[slot].append(token)
    raise AssertionError("the requests did not finish")
