"""What a chat template has made and still holds, in bytes.

Each value is noted as it is made, so it counts whoever comes to hold it: a variable, a list, a namespace, the
arguments of a macro. A template that makes much and keeps little is common, such as one that adds to a text
again and again. So once what was made comes to something, the values that nobody else holds are forgotten,
which their reference counts tell, and only the others count on.
"""

from __future__ import annotations

from collections.abc import Mapping
from sys import getrefcount, getsizeof

MAX_HELD_BYTES = 64 << 20
LOOK_BYTES = 32 << 20
"""Made between two looks at what is still held."""
SHORT = 1 << 10
"""Characters of a text that need not be noted at once."""
MANY = 1 << 12
"""Of such texts, that are noted then."""
_NOTE_BYTES = 200
"""That a note takes."""


class Notes:
    """The values of one rendering."""

    __slots__ = ("_new_bytes", "_values", "small")

    def __init__(self) -> None:
        self._values: dict[int, tuple[int, object]] = {}
        """By identity, the earliest first: how large each is, and itself."""
        self._new_bytes = 0
        """Made since the last look."""
        self.small: list[str] = []
        """Short texts that wait to be noted, many at a time."""

    def add(self, value: object, num_bytes: int) -> bool:
        """Note a value. False: more is held than may be."""
        num_bytes += _NOTE_BYTES
        self._values[id(value)] = (num_bytes, value)
        self._new_bytes += num_bytes
        return self._new_bytes <= LOOK_BYTES or self._look() <= MAX_HELD_BYTES

    def add_small(self) -> bool:
        """Note the short texts."""
        small, self.small = self.small, []
        return all(self.add(text, getsizeof(text)) for text in small)

    def _look(self) -> int:
        """Forget what nobody holds; the bytes of the rest."""
        self._new_bytes = held_bytes = 0
        for key in [*reversed(self._values)]:  # what holds others was made after them, and is to go first
            num_bytes, num_references = _references(self._values, key)
            if num_references > _UNHELD:
                held_bytes += num_bytes
            else:
                del self._values[key]
        return held_bytes


def _references(values: Mapping[int, tuple[int, object]], key: int) -> tuple[int, int]:
    """How large a value is, and how many references there are to it."""
    num_bytes, value = values[key]
    return num_bytes, getrefcount(value)


_UNHELD = _references({0: (0, object())}, 0)[1]
"""References to a value that nobody but the notes holds."""
