"""How long each phase of a start took, from what the loading reports of itself."""

from __future__ import annotations

import time
from collections.abc import Callable

from tokenwire_engine.runner.base import Progress


class StartupClock:
    """A `Progress` that times the phases on their way to another.

    Attributes:
        seconds: by phase, in order; those of the current one once it has ended.
    """

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress
        self._clock = clock
        self._phase: str | None = None
        self._begun = 0.0

    def __call__(self, phase: str, fraction: float | None = None) -> None:
        """See `Progress`."""
        if phase != self._phase:
            self.finish()
            self._phase = phase
        self._progress(phase, fraction)

    def finish(self) -> None:
        """The current phase has ended."""
        now = self._clock()
        if self._phase is not None:
            self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + now - self._begun
        self._phase, self._begun = None, now

    def summary(self) -> str:
        """Such as "ready after 1.5 s: finding the model 0.1 s, loading weights 1.4 s"."""
        phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in self.seconds.items())
        return f"ready after {sum(self.seconds.values()):.1f} s: {phases}"
