"""Which part of a tensor one rank holds.

Every parameter is divided along one dimension into equal, contiguous spans, one for each rank in order; a
world of one is a division like any other.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenwire_engine.models.errors import ModelError


@dataclass(slots=True, frozen=True)
class Shard:
    """Rank `rank` of `size`."""

    rank: int = 0
    size: int = 1

    def count(self, total: int, what: str) -> int:
        """How many of `total` things one rank holds.

        Raises:
            ModelError: `total` cannot be divided equally.
        """
        if total % self.size:
            raise ModelError(f"{total} {what} cannot be divided over {self.size} devices")
        return total // self.size

    def span(self, total: int, what: str) -> slice:
        """Which of `total` things this rank holds."""
        count = self.count(total, what)
        return slice(self.rank * count, (self.rank + 1) * count)
