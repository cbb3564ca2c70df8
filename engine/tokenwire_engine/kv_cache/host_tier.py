"""Host memory below the device's: what the pool hands out for something else is kept here, and copied back
when it is found again.

Decides what lies where; the runner does the copying, at the beginning of the step that the moves were planned
with, first those to the host, then those from it. Blocks come in the order in which the pool evicts them, the
deepest of a chain first, and go in the same order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from tokenwire_engine.kv_cache.prefix_node import Content


@dataclass(slots=True)
class HostMoves:
    """Copies of blocks between the device and the host."""

    out: list[tuple[int, int]] = field(default_factory=list)
    """(from the device, to the host)."""
    back: list[tuple[int, int]] = field(default_factory=list)
    """(from the host, to the device)."""

    def __bool__(self) -> bool:
        return bool(self.out or self.back)


class HostTier:
    """Blocks of host memory, each free or with the content of one node in one group of layers.

    Attributes:
        num_blocks: how many there are.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._contents: OrderedDict[int, Content] = OrderedDict()
        """By block, what has been here the longest first; not what is on its way back."""
        self._out: dict[int, int] = {}
        """By block of the host: the device's block that is copied to it."""
        self._back: list[tuple[int, int]] = []

    @property
    def num_used(self) -> int:
        """Blocks with content."""
        return len(self._contents)

    def put(self, content: Content, block: int) -> Content | None:
        """Keep what a block of the device holds, before it is overwritten. What was lost for that, which is
        the same content when there is no room at all."""
        lost: Content | None = None
        if self._free:
            target = self._free.pop()
        elif self._contents:
            target, lost = self._contents.popitem(last=False)
            lost.host_block = None
        else:
            return content
        content.host_block = target
        self._contents[target] = content
        self._out[target] = block
        return lost

    def keep(self, contents: Iterable[Content]) -> None:
        """These will be brought back: they are not to be lost until then."""
        for content in contents:
            assert content.host_block is not None
            del self._contents[content.host_block]

    def bring_back(self, content: Content, block: int) -> None:
        """Copy what is kept to a block of the device."""
        assert content.host_block is not None
        self._back.append((content.host_block, block))
        content.host_block = None

    def drop(self, content: Content) -> None:
        """It is on the device again, without a copy, or of no use any more; nothing where it is not here."""
        if content.host_block is not None:
            del self._contents[content.host_block]
            self._out.pop(content.host_block, None)
            self._free.append(content.host_block)
            content.host_block = None

    def take_moves(self) -> HostMoves:
        """What is to be copied with the next step."""
        moves = HostMoves([(block, target) for target, block in self._out.items()], self._back)
        # Nothing may be copied over what is still to be read.
        self._free += [source for source, _ in self._back]
        self._out, self._back = {}, []
        return moves

    def clear(self) -> None:
        """Forget everything. Moves that were not taken do not happen."""
        self.__init__(self.num_blocks)  # type: ignore[misc]
