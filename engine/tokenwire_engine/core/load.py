"""How busy the engine is, as of the end of a step."""

from __future__ import annotations

from dataclasses import dataclass

from tokenwire_engine.core.meter import Meter
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
    prefix_query_tokens: int
    prefix_hit_tokens: int
    host_hit_blocks: int
    cached_kv_blocks: int
    step_time_s: float
    tokens_per_second: float
    finished_per_second: float

    @property
    def estimated_wait_s(self) -> float | None:
        """Until a request that comes now is admitted: the queue's length at the rate at which requests
        finish. None: nothing has finished yet to measure that by."""
        if self.waiting_requests == 0:
            return 0.0
        return self.waiting_requests / self.finished_per_second if self.finished_per_second else None

    @classmethod
    def of(cls, scheduler: Scheduler, meter: Meter) -> Load:
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
            prefix_query_tokens=counters.prefix_query_tokens,
            prefix_hit_tokens=counters.prefix_hit_tokens,
            host_hit_blocks=counters.host_hit_blocks,
            cached_kv_blocks=scheduler.num_cached_blocks,
            step_time_s=meter.step_time_s,
            tokens_per_second=meter.tokens_per_second,
            finished_per_second=meter.finished_per_second,
        )
