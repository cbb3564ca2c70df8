"""Blocks that hold the tokens of a common beginning are computed once and shared (PagedAttention, SOSP 2023).

A full block is found by what it holds: its tokens and, through its parent, all tokens before them, the
adapter that computed them and the salt of those who may share them. The lookup compares all of these, not
just their hash, and a parent is known by a number that is never used twice. So a hit always means equal
tokens from the sequence's start, which is also what makes it right for layers that see only a window.

The invariant: whoever holds a block holds a block of each of its ancestors, and lets go of the deepest
first. Among idle blocks each therefore comes before its parent, so that the pool, which takes the one that
has been idle the longest, takes chains from their deepest end, and the parent of a cached block is cached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.kv_cache.changes import Change, Cleared, Removed, Stored

Scope = tuple[str, str]
"""Who shares blocks: the adapter that computes their content, and the salt of those who may see it."""

Key = tuple[int | Scope, tuple[int, ...]]
"""A node's parent (the scope, for a sequence's first block), and the tokens of its block."""


@dataclass(slots=True)
class PrefixNode:
    """One block's worth of tokens after those of its parent."""

    number: int
    """Never used for another node."""
    key: Key
    blocks: dict[int, None]
    """Physical blocks that hold it: a single idle one, or held ones (several when it was computed more than
    once at the same time). None: it is cached no more."""


@dataclass(slots=True)
class PrefixChain:
    """The beginning of one sequence as far as it is, or was, cached."""

    scope: Scope = ("", "")
    nodes: list[PrefixNode] = field(default_factory=list)
    """Of the sequence's full blocks, in order."""


class PrefixCache:
    """Finds cached beginnings, and keeps the blocks of a pool that hold them for as long as they can be."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._nodes: dict[Key, PrefixNode] = {}
        self._node_of: dict[int, PrefixNode] = {}
        self._next_number = 0
        self._changes: list[Change] | None = None
        """Since they were last taken; None: nobody wants to know."""
        pool.keeper = self

    @property
    def num_blocks(self) -> int:
        """Physical blocks whose content can be found, held ones included."""
        return len(self._node_of)

    def follow(self, chain: PrefixChain, tokens: Callable[[int, int], list[int]], num_blocks: int) -> None:
        """Bring a chain up to date: what was evicted leaves it, what was cached since is added.

        Args:
            tokens: the sequence's tokens from one position up to, not including, another.
            num_blocks: most blocks that it may have.
        """
        nodes, size = chain.nodes, self._pool.block_size
        del nodes[num_blocks:]
        while nodes and not nodes[-1].blocks:
            nodes.pop()
        parent: int | Scope = nodes[-1].number if nodes else chain.scope
        for index in range(len(nodes), num_blocks):
            node = self._nodes.get((parent, tuple(tokens(index * size, (index + 1) * size))))
            if node is None:
                break
            nodes.append(node)
            parent = node.number

    def append(self, chain: PrefixChain, tokens: tuple[int, ...], block: int) -> bool:
        """Let a held block be found: the next one of a chain, every token of which has been computed. False:
        the chain was cut off by `reset`, and cannot grow until it is followed again."""
        parent = chain.nodes[-1] if chain.nodes else None
        if parent is not None and not parent.blocks:
            return False
        key: Key = (chain.scope if parent is None else parent.number, tokens)
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = PrefixNode(self._next_number, key, {})
            self._next_number += 1
            if self._changes is not None:
                self._changes.append(Stored(node))
        elif self._pool.holders(first := next(iter(node.blocks))) == 0:
            # Its place among the idle blocks would be before that of its children to come.
            self._remove(first)
            self._pool.drop(first)
        node.blocks[block] = None
        self._node_of[block] = node
        chain.nodes.append(node)
        return True

    def num_held(self, chain: PrefixChain) -> int:
        """How many of a chain's blocks somebody holds: the first ones, since holders hold all ancestors."""
        count = len(chain.nodes)
        while count and self._pool.holders(next(iter(chain.nodes[count - 1].blocks))) == 0:
            count -= 1
        return count

    def take(self, chain: PrefixChain) -> list[int]:
        """Hold the blocks of a chain that was just followed."""
        blocks = [next(iter(node.blocks)) for node in chain.nodes]
        self._pool.share(blocks)
        return blocks

    def reset(self) -> int:
        """Forget everything. Held blocks stay with their holders, but nobody else finds them. How many
        blocks could be found before."""
        removed = len(self._node_of)
        for block, node in self._node_of.items():
            node.blocks.clear()
            self._pool.drop(block)
        self._nodes.clear()
        self._node_of.clear()
        if self._changes is not None:
            self._changes = [Cleared()]
        return removed

    def watch(self) -> None:
        """Keep account of changes from now on, what is cached already first."""
        self._changes = [Cleared(), *map(Stored, self._nodes.values())]

    def unwatch(self) -> None:
        """Changes are of no interest any more."""
        self._changes = None

    def take_changes(self) -> list[Change]:
        """What has changed since the last call, in order; nothing unless it is being watched."""
        if not self._changes:
            return []
        changes, self._changes = self._changes, []
        return changes

    # As the pool's keeper.

    def keeps(self, block: int) -> bool:
        """One idle block is enough of what other blocks hold, too."""
        node = self._node_of.get(block)
        if node is None:
            return False
        if len(node.blocks) > 1:
            self._remove(block)
            return False
        return True

    def forget(self, block: int) -> None:
        node = self._remove(block)
        if not node.blocks:
            del self._nodes[node.key]
            if self._changes is not None:
                self._changes.append(Removed(node))

    def _remove(self, block: int) -> PrefixNode:
        node = self._node_of.pop(block)
        del node.blocks[block]
        return node
