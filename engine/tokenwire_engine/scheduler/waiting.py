"""The requests that wait for their turn, in the policy's order, and those that were set aside."""

from __future__ import annotations

from collections.abc import Iterator

from tokenwire_engine.scheduler.policy import Policy
from tokenwire_engine.scheduler.request import Request


class Waiting:
    """A queue, and beside it the requests of channels on hold, whose turn does not come."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._queue: dict[int, Request] = {}
        """By arrival number."""
        self._held: dict[int, dict[int, Request]] = {}
        """In order of arrival, by the channel that is on hold."""

    def __len__(self) -> int:
        return len(self._queue) + sum(map(len, self._held.values()))

    def __iter__(self) -> Iterator[Request]:
        yield from self._queue.values()
        for held in self._held.values():
            yield from held.values()

    @property
    def num_in_line(self) -> int:
        """Requests whose turn will come."""
        return len(self._queue)

    def first(self) -> Request | None:
        """Whose turn it is."""
        return self._policy.first()

    def add(self, request: Request, ahead: bool = False) -> None:
        """A request waits: behind those that the policy holds equal to it, or ahead of them."""
        if (held := self._held.get(request.channel)) is not None:
            held[request.arrival] = request
        else:
            self._queue[request.arrival] = request
            self._policy.add(request, ahead)

    def remove(self, request: Request) -> None:
        """A request waits no longer."""
        if (held := self._held.get(request.channel)) is not None:
            del held[request.arrival]
        else:
            del self._queue[request.arrival]
            self._policy.remove(request)

    def hold(self, channel: int) -> None:
        """Set a channel's requests aside, those to come included."""
        held = sorted((r for r in self._queue.values() if r.channel == channel), key=lambda r: r.arrival)
        for request in held:
            self.remove(request)
        self._held[channel] = {request.arrival: request for request in held}

    def is_held(self, channel: int) -> bool:
        return channel in self._held

    def resume(self, channel: int) -> None:
        """Let a channel's requests wait for their turn again, ahead of those that the policy holds equal:
        they have waited longer."""
        for request in reversed(self._held.pop(channel, {}).values()):
            self.add(request, ahead=True)
