"""Which engine a request goes to.

To the one that has the least to do before its answer comes, told in tokens:

    cost = prompt tokens that its cache lacks + 16 * requests at the engine + 256 * requests that wait there

So the engine that holds the longest prefix of the prompt gets it, unless it is busier than another by more
than the prefix is worth; between engines that hold as much, it goes to the less busy one, and between those
to the one that has been sent the fewest requests.

(A linear cost of what is to be computed and whom the engine is shared with is how NVIDIA Dynamo's KV-aware
router chooses, too.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RUNNING_COST = 16
"""A request more in each step makes the others a little slower: tokens of prompt that this is worth."""
WAITING_COST = 256
"""What waiting behind one more request is worth, besides."""


@dataclass(slots=True, frozen=True)
class Load:
    """How busy an engine is."""

    requests: int = 0
    """At the engine, or on their way to it."""
    waiting: int = 0
    """Those of them that are not computed yet."""
    sent: int = 0
    """What this process has sent it since the start."""


@dataclass(slots=True, frozen=True)
class Candidate:
    """An engine that could compute the request."""

    cached_tokens: int
    """Of the request's first tokens, those that it holds."""
    load: Load

    @property
    def cost(self) -> int:
        """What the request costs there, in tokens; the prompt's length, the same everywhere, left out."""
        return RUNNING_COST * self.load.requests + WAITING_COST * self.load.waiting - self.cached_tokens


def choose(candidates: Sequence[Candidate]) -> int:
    """The index of the best of them; the first of equals.

    Raises:
        ValueError: there is none.
    """
    if not candidates:
        raise ValueError("no engine to choose from")
    return min(range(len(candidates)), key=lambda index: _rank(candidates[index]))


def _rank(candidate: Candidate) -> tuple[int, int, int]:
    return candidate.cost, -candidate.cached_tokens, candidate.load.sent
