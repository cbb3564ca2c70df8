"""How fast the engine is: steps, tokens and ends per second of computing.

A moving average over about the last `WINDOW_S` seconds in which steps ran; idle time does not enter, so that
the rates of an engine that has rested are those that it can be expected to have again.
"""

from __future__ import annotations

import math

from tokenwire_engine.scheduler.counters import Counters

WINDOW_S = 10.0


class Meter:
    """Is told of each step."""

    def __init__(self) -> None:
        # Sums over the steps, older ones weighing less.
        self._seconds = 0.0
        self._steps = 0.0
        self._tokens = 0.0
        self._finished = 0.0
        # The counters as of the latest step.
        self._generated_tokens = 0
        self._finished_requests = 0

    @property
    def step_time_s(self) -> float:
        """Mean time of a step; 0 before the first."""
        return self._seconds / self._steps if self._steps else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens generated."""
        return self._tokens / self._seconds if self._seconds else 0.0

    @property
    def finished_per_second(self) -> float:
        """Requests that ended, for whatever reason: the rate at which a queue drains."""
        return self._finished / self._seconds if self._seconds else 0.0

    def add(self, seconds: float, counters: Counters) -> None:
        """A step took this long, and these are the counters after it."""
        decay = math.exp(-seconds / WINDOW_S)
        self._seconds = self._seconds * decay + seconds
        self._steps = self._steps * decay + 1
        self._tokens = self._tokens * decay + counters.generated_tokens - self._generated_tokens
        self._finished = self._finished * decay + counters.finished_requests - self._finished_requests
        self._generated_tokens = counters.generated_tokens
        self._finished_requests = counters.finished_requests
