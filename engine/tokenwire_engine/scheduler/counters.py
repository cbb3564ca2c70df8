"""What the scheduler counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Since the start."""

    steps: int = 0
    prompt_tokens: int = 0
    """Prompt tokens computed; those computed again after a preemption count again."""
    generated_tokens: int = 0
    preemptions: int = 0
    finished_requests: int = 0
    prefix_query_tokens: int = 0
    """Known tokens of admitted requests, which were looked for in the prefix cache; those of a request that
    comes back after a preemption count again."""
    prefix_hit_tokens: int = 0
    """Those that were found there."""
    host_hit_blocks: int = 0
    """Blocks of them that came back from host memory."""
