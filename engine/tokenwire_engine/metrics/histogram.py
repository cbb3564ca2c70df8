"""A histogram in plain integers: an observation is a binary search and two additions.

One thread observes; any thread may take a snapshot, whose sum may be an observation ahead of its counts.
"""

from __future__ import annotations

from bisect import bisect_left


class Histogram:
    """Counts values by the first bound that is not below them.

    Attributes:
        bounds: upper bounds of all buckets but the last, which has none; increasing.
        counts: of each bucket, one more than there are bounds.
        sum: of all values.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Count a value `count` times."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.sum += value * count
