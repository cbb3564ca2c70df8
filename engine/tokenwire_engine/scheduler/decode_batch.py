"""The running requests that decode: each computes the token sampled last for it, and samples the next.

They are kept as columns, which a step moves on as a whole. A request is looked at by itself only when its
tokens come to the end of a block or to the beginning of one, when a block goes out of its sight, and when it
comes to its limit; when that will be is known beforehand. So a step costs the host next to nothing for each
request, however many there are.

What a request in the batch says of its computed and pending tokens is out of date until it leaves.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tokenwire_engine.scheduler.request import NO_ROW, Request


class DecodeBatch:
    """Its rows keep their places; one that leaves is replaced by the last.

    Attributes:
        requests: of each row.
        starts: the position of the token that each row computes next.
    """

    def __init__(self, block_size: int, windows: Sequence[int]) -> None:
        self.requests: list[Request] = []
        self.starts: list[int] = []
        self._block_size = block_size
        # In a block: its first and its last place, and those from which on a block before is out of sight.
        places = {0, block_size - 1, *((window - 1) % block_size for window in windows if window)}
        self._until_next = [
            min((place - offset) % block_size for place in places) for offset in range(block_size)
        ]
        self._slots: list[int] = []
        self._columns: tuple[tuple[int, ...], tuple[Request, ...]] | None = None
        """Slots and requests as steps have them; None: they have changed."""
        self._num_steps = 0
        self._due: dict[int, dict[int, Request]] = {}
        """Whom to look at before which step, by arrival number."""

    def add(self, request: Request) -> None:
        """A step was planned that computes all of a request's tokens and samples the next."""
        request.decode_row = len(self.requests)
        self.requests.append(request)
        self.starts.append(request.num_computed)
        self._slots.append(request.slot)
        self._columns = None
        self._look_before(request, request.num_computed)

    def remove(self, request: Request) -> None:
        """A request gives way, has ended or cannot go on by itself: bring it up to date."""
        row = request.decode_row
        request.num_computed = self.starts[row]
        request.num_pending = request.num_computed + 1 - request.num_tokens
        request.decode_row = NO_ROW
        del self._due[request.due_step][request.arrival]
        last, start, slot = self.requests.pop(), self.starts.pop(), self._slots.pop()
        if last is not request:
            self.requests[row], self.starts[row], self._slots[row] = last, start, slot
            last.decode_row = row
        self._columns = None

    def due(self) -> Collection[Request]:
        """Whom to look at before the next step."""
        return self._due.get(self._num_steps, {}).values()

    def looked_at(self, request: Request) -> None:
        """A request that was due can compute its next token."""
        start = self.starts[request.decode_row] + 1
        self._look_before(request, start + self._until_next[start % self._block_size])

    def advance(self) -> tuple[tuple[int, ...], list[int], tuple[Request, ...]]:
        """Move on by a step, with nobody due; the slots of its rows, the positions that it computes, and the
        requests."""
        if self._columns is None:
            self._columns = tuple(self._slots), tuple(self.requests)
        slots, requests = self._columns
        starts, self.starts = self.starts, [start + 1 for start in self.starts]
        self._due.pop(self._num_steps, None)
        self._num_steps += 1
        return slots, starts, requests

    def _look_before(self, request: Request, position: int) -> None:
        """Look at a request before it computes a position, or comes to its limit."""
        steps = min(position, request.length_limit - 1) - self.starts[request.decode_row]
        request.due_step = self._num_steps + steps
        self._due.setdefault(request.due_step, {})[request.arrival] = request
