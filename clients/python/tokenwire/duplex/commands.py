"""What a session has to say, for as many streams as it takes to say it."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

Command = TypeVar("Command")


class Commands(Generic[Command]):
    """A session's commands in order, each kept until the peer has counted it.

    Over one stream at a time, `take` gives each of them once; over the next stream those that the peer lacks.
    """

    def __init__(self) -> None:
        self._kept: deque[Command] = deque()
        self._num_taken = 0
        """Of those kept: taken for this stream."""
        self._num_counted = 0

    def add(self, command: Command) -> None:
        """Say something more."""
        self._kept.append(command)

    def take(self) -> Command | None:
        """The next command for this stream, if there is one."""
        if self._num_taken == len(self._kept):
            return None
        self._num_taken += 1
        return self._kept[self._num_taken - 1]

    def forget_taken(self) -> None:
        """What was taken will not be sent again: there will be no other stream."""
        self.count(self._num_counted + self._num_taken)

    def count(self, num_received: int) -> None:
        """The peer has received so many commands since the session began.

        Raises:
            ValueError: it cannot have.
        """
        num_new = num_received - self._num_counted
        if num_new > len(self._kept):
            total = self._num_counted + len(self._kept)
            raise ValueError(f"{num_received} commands were counted of {total}")
        for _ in range(num_new):
            self._kept.popleft()
            self._num_counted += 1
            self._num_taken = max(0, self._num_taken - 1)

    def begin_stream(self, num_received: int) -> None:
        """A new stream is open, at whose other end so many commands are known.

        Raises:
            ValueError: so many there were not.
        """
        self.count(num_received)
        self._num_taken = 0
