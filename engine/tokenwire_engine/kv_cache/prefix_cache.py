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

Where layers see unequally far, a node has a block in each of their groups (`groups.py`), and a beginning can
be used that all groups can go on from. A node's block in one group is of no use without those in groups that
see farther, and goes with them.

What the pool takes goes to the tier of host memory, if there is one, and comes back when it is found there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.kv_cache.block_table import BlockTable, num_out_of_sight
from tokenwire_engine.kv_cache.changes import Change, Cleared, Removed, Stored
from tokenwire_engine.kv_cache.host_tier import HostMoves, HostTier
from tokenwire_engine.kv_cache.prefix_node import Content, Key, PrefixChain, PrefixNode, Scope

NO_BLOCK = 0
"""In a table, in place of a block that is not needed: what it holds is not looked at."""


class PrefixCache:
    """Finds cached beginnings, and keeps the blocks of a pool that hold them for as long as they can be."""

    def __init__(self, pool: BlockPool, windows: Sequence[int] = (0,), host: HostTier | None = None) -> None:
        """
        Args:
            windows: of each group of layers, those that see the most first: tokens that a token sees at most,
                itself included; 0: all before it.
            host: where the content of blocks goes that the pool hands out for something else.
        """
        self._pool = pool
        self._windows = tuple(windows)
        self._groups = range(len(self._windows))
        self._host = host
        self._nodes: dict[Key, PrefixNode] = {}
        self._content_of: dict[int, Content] = {}
        """By block."""
        self._next_number = 0
        self._changes: list[Change] | None = None
        """Since they were last taken; None: nobody wants to know."""
        pool.keeper = self

    @property
    def num_blocks(self) -> int:
        """Physical blocks whose content can be found, held ones included."""
        return len(self._content_of)

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

    def append(self, chain: PrefixChain, tokens: tuple[int, ...], blocks: Sequence[int | None]) -> bool:
        """Let held blocks be found: the next ones of a chain, every token of which has been computed. False:
        the chain was cut off, and cannot grow until it is followed again.

        Args:
            blocks: one in each group; None where it is out of sight already.
        """
        parent = chain.nodes[-1] if chain.nodes else None
        if parent is not None and not parent.is_cached:
            return False
        key: Key = (chain.scope if parent is None else parent.number, tokens)
        node = self._nodes.get(key) or self._make_node(key, chain.scope, parent)
        if self._changes is not None and not node.is_present and blocks[0] is not None:
            self._changes.append(Stored(node))
        for content, block in zip(node.contents, blocks, strict=True):
            if block is None:
                continue
            if content.blocks and self._pool.holders(first := content.block) == 0:
                # Its place among the idle blocks would be before that of its children to come.
                self._remove(first)
                self._pool.drop(first)
            if self._host is not None:
                self._host.drop(content)
            self._add(content, block)
        chain.nodes.append(node)
        return True

    def num_spared(self, chain: PrefixChain) -> int:
        """How many of a chain's blocks, those of all groups together, can be taken without a free one: those
        that somebody holds, and those out of sight."""
        nodes, spared = chain.nodes, 0
        for group, window in enumerate(self._windows):
            if window:
                hidden = self._num_out_of_sight(len(nodes), window)
                spared += hidden + sum(self._is_held(node.contents[group]) for node in nodes[hidden:])
            else:
                count = len(nodes)
                while count and not self._is_held(nodes[count - 1].contents[group]):
                    count -= 1
                spared += count  # the first ones: holders hold all ancestors
        return spared

    def take(self, chain: PrefixChain, tables: Sequence[BlockTable]) -> int:
        """Begin tables, one for each group, with the blocks of a chain that was just followed, and hold them;
        `num_spared` says how many of them take a free block. How many come back from the host."""
        nodes = chain.nodes
        hidden = [self._num_out_of_sight(len(nodes), window) for window in self._windows]
        seen = [[node.contents[group] for node in nodes[count:]] for group, count in enumerate(hidden)]
        away = [content for contents in seen for content in contents if not content.blocks]
        for contents in seen:
            self._pool.share(content.block for content in contents if content.blocks)
        if away:
            assert self._host is not None
            # Taking blocks may evict others to the host: not at the expense of what is wanted now.
            self._host.keep(away)
            for content, block in zip(away, self._pool.allocate(len(away)), strict=True):
                self._host.bring_back(content, block)
                self._add(content, block)
        for table, count, contents in zip(tables, hidden, seen, strict=True):
            table.blocks = [NO_BLOCK] * count + [content.block for content in contents]
            table.num_released = count
        return len(away)

    def take_host_moves(self) -> HostMoves:
        """What is to be copied to and from the host before the next step is computed."""
        return HostMoves() if self._host is None else self._host.take_moves()

    def reset(self) -> int:
        """Forget everything. Held blocks stay with their holders, but nobody else finds them. How many
        blocks could be found before."""
        removed = len(self._content_of)
        for block in self._content_of:
            self._pool.drop(block)
        for node in self._nodes.values():
            for content in node.contents:
                content.blocks = ()
                content.host_block = None
            node.is_cached = False
        self._nodes.clear()
        self._content_of.clear()
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
        content = self._content_of.get(block)
        if content is None:
            return False
        if len(content.blocks) > 1:
            self._remove(block)
            return False
        return True

    def forget(self, block: int) -> None:
        content = self._remove(block)
        if content.blocks:
            return
        lost = content if self._host is None else self._host.put(content, block)
        if lost is not None:
            self._lose(lost)

    def _make_node(self, key: Key, scope: Scope, parent: PrefixNode | None) -> PrefixNode:
        node = self._nodes[key] = PrefixNode(self._next_number, key, scope, parent)
        node.contents = tuple([Content(node, group) for group in self._groups])
        self._next_number += 1
        if parent is not None:
            parent.num_children += 1
        return node

    def _lose(self, lost: Content) -> None:
        """A content is nowhere any more, and what its node has in groups that see no farther goes with it.
        Where nothing is to be found behind the node, it goes itself."""
        for content in lost.node.contents[self._windows.index(self._windows[lost.group]) :]:
            for block in content.blocks:
                self._remove(block)
                self._pool.drop(block)
            if self._host is not None:
                self._host.drop(content)
        if lost.node.is_present:
            return
        if self._changes is not None:
            self._changes.append(Removed(lost.node))
        leaf: PrefixNode | None = lost.node
        while leaf is not None and not (leaf.num_children or leaf.is_present):
            del self._nodes[leaf.key]
            leaf.is_cached = False
            leaf = leaf.parent
            if leaf is not None:
                leaf.num_children -= 1

    def _num_usable(self, nodes: list[PrefixNode]) -> int:
        """How many nodes of a beginning can be gone on from: all that the next token sees are there."""
        count = len(nodes)
        while count and (missing := self._last_missing(nodes, count)) >= 0:
            count = missing  # which the tokens after the nodes up to it see, too
        return count

    def _last_missing(self, nodes: list[PrefixNode], count: int) -> int:
        """The last of the first `count` nodes that the token after them sees, and that is not there in some
        group; -1: there is none."""
        missing = -1
        for group, window in enumerate(self._windows):
            # Where all is seen, ancestors are there if the last one is.
            first = self._num_out_of_sight(count, window) if window else count - 1
            for index in range(count - 1, max(first, missing + 1) - 1, -1):
                if not nodes[index].contents[group].is_present:
                    missing = index
                    break
        return missing

    def _num_out_of_sight(self, num_blocks: int, window: int) -> int:
        """How many of so many blocks the token after them does not see."""
        size = self._pool.block_size
        return num_out_of_sight(num_blocks * size, window, size)

    def _is_held(self, content: Content) -> bool:
        return bool(content.blocks) and self._pool.holders(content.block) > 0

    def _add(self, content: Content, block: int) -> None:
        if block not in content.blocks:  # its holders each say so
            content.blocks += (block,)
            self._content_of[block] = content

    def _remove(self, block: int) -> Content:
        content = self._content_of.pop(block)
        content.blocks = tuple(other for other in content.blocks if other != block)
        return content
