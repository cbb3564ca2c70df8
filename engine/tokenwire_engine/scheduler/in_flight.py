"""A step that was planned and whose result is not in yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenwire_engine.kv_cache.block_table import BlockTable
from tokenwire_engine.scheduler.plan import StepPlan
from tokenwire_engine.scheduler.request import Request


@dataclass(slots=True)
class StepInFlight:
    """A plan, and whom its rows belong to."""

    plan: StepPlan
    num_decodes: int = 0
    num_prompt_tokens: int = 0
    """All other tokens."""
    requests: list[Request] = field(default_factory=list)
    """Of each row."""
    sampling: list[Request] = field(default_factory=list)
    """The requests of the rows that sample, in the plan's order."""
    scored: list[Request] = field(default_factory=list)
    """The requests of the rows that yield log-probabilities of the prompt, in the plan's order."""
    prompts_done: list[Request] = field(default_factory=list)
    """Requests whose prompt it computes the last token of, and whose other samples wait for that."""
    filled: list[tuple[Request, list[BlockTable], int]] = field(default_factory=list)
    """Requests with a block that this step computes the last token of, their tables when it was planned (a
    request that leaves gets new ones), and how many tokens are computed then."""
