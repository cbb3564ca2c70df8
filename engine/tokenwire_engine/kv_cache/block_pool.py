"""The physical blocks of the KV cache: which are free, and how many hold on to each of the others.

A block with no holder is either on the free list or, when its content is worth keeping, idle: still cached,
and handed out only when the free list is empty, the one that has been idle the longest first. When a block's
last holder lets go, the keeper decides which. Every operation costs O(1) a block.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol


class Keeper(Protocol):
    """Who knows what idle blocks hold."""

    def keeps(self, block: int) -> bool:
        """Whether the content of a block that lost its last holder is worth keeping."""

    def forget(self, block: int) -> None:
        """An idle block is about to be handed out for something else."""


class BlockPool:
    """Hands out block ids from 0 to `num_blocks - 1` and counts their holders.

    Attributes:
        keeper: asked about blocks without a holder; None: nothing is worth keeping.

    Raises:
        ValueError: on construction, when there is not at least one block of at least one token.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(
                f"a pool of {num_blocks} blocks of {block_size} tokens; expected at least one of each"
            )
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.keeper: Keeper | None = None
        # A stack: the block freed last is handed out first, while it may still be in a processor's cache.
        self._free = list(range(num_blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._holders = [0] * num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds, idle ones included."""
        return len(self._free) + len(self._idle)

    @property
    def num_idle(self) -> int:
        """Blocks that nobody holds and whose content is kept."""
        return len(self._idle)

    @property
    def num_tokens(self) -> int:
        """Tokens that fit into the whole pool."""
        return self.num_blocks * self.block_size

    def holders(self, block: int) -> int:
        """How many hold on to a block."""
        return self._holders[block]

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks that nobody holds, each with one holder.

        Raises:
            ValueError: when there are fewer; nothing is taken then.
        """
        if count > self.num_free:
            raise ValueError(f"{count} blocks asked for, {self.num_free} free; release some first")
        while len(self._free) < count:
            self._reclaim()
        first = len(self._free) - count
        blocks = self._free[first:]
        del self._free[first:]
        blocks.reverse()
        for block in blocks:
            self._holders[block] = 1
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """Add a holder to each of these blocks, held or idle.

        Raises:
            ValueError: when one of them is free.
        """
        for block in blocks:
            if self._holders[block] == 0:
                if block not in self._idle:
                    raise ValueError(f"block {block} is free; only a held or idle block can be shared")
                del self._idle[block]
            self._holders[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """Take a holder from each of these blocks; those without another become idle or free, in this order.

        Raises:
            ValueError: when one of them has no holder already.
        """
        for block in blocks:
            if self._holders[block] == 0:
                raise ValueError(f"block {block} is free; it was released more often than it was taken")
            self._holders[block] -= 1
            if self._holders[block] == 0:
                if self.keeper is not None and self.keeper.keeps(block):
                    self._idle[block] = None
                else:
                    self._free.append(block)

    def drop(self, block: int) -> None:
        """What an idle block holds is not worth keeping any more; does nothing to another block."""
        if block in self._idle:
            del self._idle[block]
            self._free.append(block)

    def _reclaim(self) -> None:
        block, _ = self._idle.popitem(last=False)
        assert self.keeper is not None
        self.keeper.forget(block)
        self._free.append(block)
