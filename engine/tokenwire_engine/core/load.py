"""How busy the engine is, as of the end of a step."""

from __future__ import annotations

from dataclasses import dataclass

from tokenwire_engine.scheduler.scheduler import Scheduler


@dataclass(slots=True, frozen=True)
class Load:
    """A consistent snapshot: all values are of the same moment."""

    running_requests: int
    waiting_requests: int
    total_kv_blocks: int
    free_kv_blocks: int
    steps: int
    prompt_tokens: int
    generated_tokens: int
    preemptions: int
    finished_requests: int

    @classmethod
    def of(cls, scheduler: Scheduler) -> Load:
        """The load now; call it on the scheduler's own thread."""
        counters = scheduler.counters
        return cls(
            running_requests=scheduler.num_running,
            waiting_requests=scheduler.num_waiting,
            total_kv_blocks=scheduler.pool.num_blocks,
            free_kv_blocks=scheduler.pool.num_free,
            steps=counters.steps,
            prompt_tokens=counters.prompt_tokens,
            generated_tokens=counters.generated_tokens,
            preemptions=counters.preemptions,
            finished_requests=counters.finished_requests,
        )
