"""The physical blocks of the KV cache: which are free, and how many hold on to each of the others.

A block is either on the free list with no holder, or off it with at least one. It goes back on the list
when its last holder lets go. Every operation costs O(1) a block.
"""

from __future__ import annotations

from collections.abc import Iterable


class BlockPool:
    """Hands out block ids from 0 to `num_blocks - 1` and counts their holders.

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
        # A stack: the block freed last is handed out first, while it may still be in a processor's cache.
        self._free = list(range(num_blocks - 1, -1, -1))
        self._holders = [0] * num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    @property
    def num_tokens(self) -> int:
        """Tokens that fit into the whole pool."""
        return self.num_blocks * self.block_size

    def holders(self, block: int) -> int:
        """How many hold on to a block."""
        return self._holders[block]

    def allocate(self, count: int) -> list[int]:
        """Take `count` free blocks, each with one holder.

        Raises:
            ValueError: when fewer are free; nothing is taken then.
        """
        if count > len(self._free):
            raise ValueError(f"{count} blocks asked for, {len(self._free)} free; release some first")
        blocks = [self._free.pop() for _ in range(count)]
        for block in blocks:
            self._holders[block] = 1
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """Add a holder to each of these blocks.

        Raises:
            ValueError: when one of them is free.
        """
        for block in blocks:
            if self._holders[block] == 0:
                raise ValueError(f"block {block} is free; only a held block can be shared")
            self._holders[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """Take a holder from each of these blocks; those without another become free.

        Raises:
            ValueError: when one of them is free already.
        """
        for block in blocks:
            if self._holders[block] == 0:
                raise ValueError(f"block {block} is free; it was released more often than it was taken")
            self._holders[block] -= 1
            if self._holders[block] == 0:
                self._free.append(block)
