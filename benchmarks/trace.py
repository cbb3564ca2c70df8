"""A day's worth of trouble in minutes: requests of many tenants, in bursts, with heavy-tailed lengths.

One tenant sends half of all requests. Each sends bursts, whose sizes follow a Pareto distribution and which
begin at any time; lengths of prompts and outputs are log-normal. Every tenant's prompts begin with its own
system prompt.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

NUM_TENANTS = 16
HEAVY_TENANT = 0
SYSTEM_TOKENS = 64
"""Tokens that all prompts of a tenant have in common."""


@dataclass(slots=True, frozen=True)
class Arrival:
    """One request of the trace."""

    at_s: float
    tenant: int
    priority: int
    prompt_tokens: int
    output_tokens: int


def make_trace(num_requests: int, requests_per_second: float, seed: int) -> list[Arrival]:
    """Requests in order of arrival, at a mean rate."""
    generator = random.Random(seed)
    duration_s = num_requests / requests_per_second
    trace: list[Arrival] = []
    while len(trace) < num_requests:
        heavy = generator.random() < 0.5
        tenant = HEAVY_TENANT if heavy else generator.randrange(1, NUM_TENANTS)
        at_s = generator.uniform(0, duration_s)
        for _ in range(min(round(generator.paretovariate(1.2)), 1000, num_requests - len(trace))):
            trace.append(
                Arrival(
                    at_s=at_s,
                    tenant=tenant,
                    priority=generator.choices((-1, 0, 1), (1, 3, 1))[0],
                    prompt_tokens=SYSTEM_TOKENS + _length(generator, median=60, most=1024),
                    output_tokens=_length(generator, median=30, most=512),
                )
            )
            at_s += generator.expovariate(100)
    trace.sort(key=lambda arrival: arrival.at_s)
    return trace


def _length(generator: random.Random, median: int, most: int) -> int:
    return max(1, min(most, round(median * generator.lognormvariate(0, 1))))
