"""How often peers hear of new tokens.

A message costs the host as much for one token as for many, and where the host computes too, it costs the next
step. Nobody reads tokens faster than a screen shows them, so those of short steps go out together: at the end
of the step that is nearest to an interval after the message before. They are few, so that a stream still
flows; and steps behind something urgent, as a request's first token is, are sent one by one: a short answer
is seen to grow as a long one is.
"""

from __future__ import annotations

import math

HURRIED_STEPS = 8
"""Behind something urgent, with a message each."""
MOST_STEPS = 4
"""In one message: it costs a quarter as much for each, and hardly less with more."""


class Pace:
    """Is told of steps and of messages, and says when the next message is due."""

    def __init__(self, interval_s: float) -> None:
        """`interval_s`: between two messages; 0: every step has one."""
        self._interval_s = interval_s
        self._latest = -math.inf
        self._num_steps = self._num_hurried = 0
        self._step_s = 0.0

    def step_done(self, seconds: float) -> None:
        """A step took so long."""
        self._num_steps += 1
        self._step_s = seconds

    def hurry(self) -> None:
        """A message is due now, and one behind each of the next steps."""
        self._num_hurried = 1 + HURRIED_STEPS

    def is_due(self, now: float) -> bool:
        """Whether there is a hurry, or a message now comes closer to the interval than one at the end of the
        next step, or has as many steps as it may."""
        is_nearest = now + self._step_s / 2 >= self._latest + self._interval_s
        return is_nearest or self._num_hurried > 0 or self._num_steps >= MOST_STEPS

    def sent(self, now: float) -> None:
        """A message goes out."""
        self._latest = now
        self._num_steps = 0
        self._num_hurried = max(0, self._num_hurried - 1)
