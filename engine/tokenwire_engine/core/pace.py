"""How often peers hear of new tokens.

A message costs the host as much for one token as for many, and where the host computes too, it costs the next
step. Nobody reads tokens faster than a screen shows them, so those of short steps go out together: at the end
of the step that is nearest to an interval after the message before.
"""

from __future__ import annotations

import math


class Pace:
    """Keeps the time of the latest message."""

    def __init__(self, interval_s: float) -> None:
        """`interval_s`: between two messages; 0: every step has one."""
        self._interval_s = interval_s
        self._latest = -math.inf

    def is_due(self, now: float, step_s: float) -> bool:
        """Whether a message at the end of a step, which is now, comes closer to the interval than one at the
        end of the next, which will take `step_s` seconds."""
        return now + step_s / 2 >= self._latest + self._interval_s

    def sent(self, now: float) -> None:
        """A message goes out."""
        self._latest = now
