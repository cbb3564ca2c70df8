"""Finding stop strings in text that arrives in pieces.

The first stop string to be complete ends the text; where two are complete at the same character, the one
that began earlier. So the result does not depend on how the text was cut into pieces. Text that may still
become a stop string is held back, and nothing more than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class StopStrings:
    """Watches one request's text.

    Attributes:
        stops: the strings to stop at, none of them empty.
        include: whether a match stays at the end of the text.
        matched: the stop string that was found; no more text may be pushed then.
    """

    stops: Sequence[str]
    include: bool = False
    matched: str | None = None
    _held: str = field(default="", init=False)

    def push(self, text: str) -> str:
        """Take the next piece of text, return what is now known to be output (possibly nothing)."""
        num_held = len(self._held)
        text = self._held + text
        end, begin = len(text) + 1, 0
        for stop in self.stops:
            at = text.find(stop, max(0, num_held - len(stop) + 1))  # what was held ended nothing
            if at >= 0 and (at + len(stop), at) < (end, begin):
                end, begin, self.matched = at + len(stop), at, stop
        if self.matched is not None:
            self._held = ""
            return text[: end if self.include else begin]
        return self._hold_back(text)

    def pass_over(self, text: str) -> str:
        """The same for text that completes no stop string, whatever it is; one may begin in it."""
        return self._hold_back(self._held + text)

    def flush(self) -> str:
        """The text ended without a stop string: what was held back."""
        text, self._held = self._held, ""
        return text

    def _hold_back(self, text: str) -> str:
        keep = max(overlap(text, stop) for stop in self.stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that `mark` begins with, without being all of it."""
    at = text.find(mark[0], max(0, len(text) - len(mark) + 1))
    while at >= 0:
        if mark.startswith(text[at:]):
            return len(text) - at
        at = text.find(mark[0], at + 1)
    return 0
