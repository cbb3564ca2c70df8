"""Blocks that hold the tokens of a common beginning are computed once and shared (PagedAttention, SOSP 2023).

A full block is found by what it holds: its tokens and, through its parent, all tokens before them, the
adapter that computed them and the salt of those who may share them. The lookup compares all of these, not
just their hash, and a parent is known by a number that is never used twice. So a hit always means equal
tokens from the sequence's start, which is also what makes it right for layers that see only a window.

The invariant, where every token sees all before it: whoever holds a block holds a block of each of its
ancestors, and lets go of the deepest first. Among idle blocks each therefore comes before its parent, so that
the pool, which takes the one that has been idle the longest, takes chains from their deepest end, and the
parent of a cached block is cached.

Where tokens see only a window, blocks behind it are let go first, and a beginning can be used as long as the
blocks within its last window are there. A node whose own block is gone stays, as the way to its children.

What the pool takes goes to the tier of host memory, if there is one, and comes back when it is found there.
"""

from __future__ import annotations

from collections.abc import Callable

from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.kv_cache.block_table import BlockTable, num_out_of_sight
from tokenwire_engine.kv_cache.changes import Change, Cleared, Removed, Stored
from tokenwire_engine.kv_cache.host_tier import HostMoves, HostTier
from tokenwire_engine.kv_cache.prefix_node import Key, PrefixChain, PrefixNode, Scope

NO_BLOCK = 0
"""In a table, in place of a block that is not needed: what it holds is not looked at."""


class PrefixCache:
    """Finds cached beginnings, and keeps the blocks of a pool that hold them for as long as they can be."""

    def __init__(self, pool: BlockPool, window: int = 0, host: HostTier | None = None) -> None:
        """
        Args:
            window: tokens that a token sees at most, itself included; 0: all before it.
            host: where the content of blocks goes that the pool hands out for something else.
        """
        self._pool = pool
        self._window = window
        self._host = host
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
        while nodes and not nodes[-1].is_cached:
            nodes.pop()
        parent: int | Scope = nodes[-1].number if nodes else chain.scope
        for index in range(len(nodes), num_blocks):
            node = self._nodes.get((parent, tuple(tokens(index * size, (index + 1) * size))))
            if node is None:
                break
            nodes.append(node)
            parent = node.number
        del nodes[self._num_usable(nodes) :]

    def append(self, chain: PrefixChain, tokens: tuple[int, ...], block: int) -> bool:
        """Let a held block be found: the next one of a chain, every token of which has been computed. False:
        the chain was cut off, and cannot grow until it is followed again."""
        parent = chain.nodes[-1] if chain.nodes else None
        if parent is not None and not parent.is_cached:
            return False
        key: Key = (chain.scope if parent is None else parent.number, tokens)
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = PrefixNode(self._next_number, key, chain.scope, parent)
            self._next_number += 1
            if parent is not None:
                parent.num_children += 1
        if self._changes is not None and not node.is_present:
            self._changes.append(Stored(node))
        if node.blocks and self._pool.holders(first := next(iter(node.blocks))) == 0:
            # Its place among the idle blocks would be before that of its children to come.
            self._remove(first)
            self._pool.drop(first)
        if node.host_block is not None and self._host is not None:
            self._host.drop(node)
        self._add(node, block)
        chain.nodes.append(node)
        return True

    def num_spared(self, chain: PrefixChain) -> int:
        """How many of a chain's blocks can be taken without a free one: those that somebody holds, and those
        out of sight."""
        nodes = chain.nodes
        if self._window:
            hidden = self._num_out_of_sight(len(nodes))
            return hidden + sum(map(self._is_held, nodes[hidden:]))
        count = len(nodes)
        while count and not self._is_held(nodes[count - 1]):  # the first ones: holders hold all ancestors
            count -= 1
        return count

    def take(self, chain: PrefixChain, table: BlockTable) -> int:
        """Begin a table with the blocks of a chain that was just followed, and hold them; `num_spared` says
        how many of them take a free block. How many come back from the host."""
        hidden = self._num_out_of_sight(len(chain.nodes))
        seen = chain.nodes[hidden:]
        away = [node for node in seen if not node.blocks]
        self._pool.share(next(iter(node.blocks)) for node in seen if node.blocks)
        if away:
            assert self._host is not None
            # Taking blocks may evict others to the host: not at the expense of what is wanted now.
            self._host.keep(away)
            for node, block in zip(away, self._pool.allocate(len(away)), strict=True):
                self._host.bring_back(node, block)
                self._add(node, block)
        table.blocks = [NO_BLOCK] * hidden + [next(iter(node.blocks)) for node in seen]
        table.num_released = hidden
        return len(away)

    def take_host_moves(self) -> HostMoves:
        """What is to be copied to and from the host before the next step is computed."""
        return HostMoves() if self._host is None else self._host.take_moves()

    def reset(self) -> int:
        """Forget everything. Held blocks stay with their holders, but nobody else finds them. How many
        blocks could be found before."""
        removed = len(self._node_of)
        for node in self._nodes.values():
            for block in node.blocks:
                self._pool.drop(block)
            node.blocks.clear()
            node.host_block = None
            node.is_cached = False
        self._nodes.clear()
        self._node_of.clear()
        if self._host is not None:
            self._host.clear()
        if self._changes is not None:
            self._changes = [Cleared()]
        return removed

    def watch(self) -> None:
        """Keep account of changes from now on, what is cached already first."""
        self._changes = [
            Cleared(),
            *(Stored(node) for node in self._nodes.values() if node.is_present),
        ]

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
        if node.blocks:
            return
        lost = node if self._host is None else self._host.put(node, block)
        if lost is not None:
            self._lose(lost)

    def _lose(self, node: PrefixNode) -> None:
        """A node's content is nowhere any more. Where nothing is to be found behind it, it goes itself."""
        if self._changes is not None:
            self._changes.append(Removed(node))
        leaf: PrefixNode | None = node
        while leaf is not None and not (leaf.num_children or leaf.is_present):
            del self._nodes[leaf.key]
            leaf.is_cached = False
            leaf = leaf.parent
            if leaf is not None:
                leaf.num_children -= 1

    def _num_usable(self, nodes: list[PrefixNode]) -> int:
        """How many nodes of a beginning can be gone on from: all that the next token sees are there."""
        usable = len(nodes)
        if not self._window:
            while usable and not nodes[usable - 1].is_present:
                usable -= 1
            return usable
        usable = run = 0
        for count, node in enumerate(nodes, start=1):
            run = run + 1 if node.is_present else 0
            if run >= count - self._num_out_of_sight(count):
                usable = count
        return usable

    def _num_out_of_sight(self, num_blocks: int) -> int:
        """How many of so many blocks the token after them does not see."""
        size = self._pool.block_size
        return num_out_of_sight(num_blocks * size, self._window, size)

    def _is_held(self, node: PrefixNode) -> bool:
        return bool(node.blocks) and self._pool.holders(next(iter(node.blocks))) > 0

    def _add(self, node: PrefixNode, block: int) -> None:
        node.blocks[block] = None
        self._node_of[block] = node

    def _remove(self, block: int) -> PrefixNode:
        node = self._node_of.pop(block)
        del node.blocks[block]
        return node
