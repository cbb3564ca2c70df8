"""Which physical blocks hold a request's tokens.

A block table only ever grows at its end while a request runs: kernels may read any prefix of it while
the host appends.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class BlockTable:
    """Physical block ids of one request, in token order."""

    block_size: int
    """Tokens per block."""
    blocks: list[int] = field(default_factory=list)
    num_released: int = 0
    """The first so many blocks were given back: what they held is not needed, and they may hold anything."""

    @property
    def held(self) -> list[int]:
        """The blocks that were not given back."""
        return self.blocks[self.num_released :]

    @property
    def capacity(self) -> int:
        """Tokens that fit without another block."""
        return len(self.blocks) * self.block_size

    def blocks_needed(self, num_tokens: int) -> int:
        """Blocks to add before `num_tokens` tokens fit."""
        return max(0, ceil_div(num_tokens, self.block_size) - len(self.blocks))


def ceil_div(numerator: int, denominator: int) -> int:
    """`numerator / denominator`, rounded up."""
    return -(-numerator // denominator)


def num_out_of_sight(position: int, window: int, block_size: int) -> int:
    """Blocks at a sequence's beginning that its token at `position` does not see, and no later one.

    Args:
        window: tokens that a token sees at most, itself included; 0: all before it.
    """
    return max(0, position - window + 1) // block_size if window else 0
