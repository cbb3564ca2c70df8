"""WatchKvEvents: which blocks the prefix cache holds, for those who send requests where their beginning is.

Nothing is kept, and nothing is hashed, unless somebody watches. Then one mirror of the cache follows the
core's changes, a step at a time, and serves every watcher: first with all that it holds, then with what
changes. What waits for a watcher is the difference to what it was sent, block by block; when that is more
than it is worth, the watcher gets everything anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

import grpc

from tokenwire.kv_hash import block_hash, root_hash
from tokenwire.status import StatusError
from tokenwire.v1 import engine_pb2
from tokenwire_engine.core.commands import Command, WatchPrefixCache
from tokenwire_engine.kv_cache.changes import Change, Cleared, Removed, Stored
from tokenwire_engine.kv_cache.prefix_node import PrefixNode, Scope

MAX_PENDING = 1 << 14
"""Changes that may wait for a watcher; past it, it is sent everything anew."""
MAX_MESSAGE_BLOCKS = 1024
"""Most stored blocks in one message."""
_SLICE = 256
"""Changes that are taken in at a time, so that requests do not wait for a large cache to be hashed."""

StoredBlock = engine_pb2.WatchKvEventsResponse.StoredBlock


class KvEvents:
    """All watchers of one engine's prefix cache. On the asyncio thread."""

    def __init__(self, send: Callable[[Command], None], is_enabled: bool) -> None:
        """
        Args:
            send: gives a command to the core.
            is_enabled: whether there is a prefix cache.
        """
        self._send = send
        self._is_enabled = is_enabled
        self._mirror: _Mirror | None = None
        self._sequence = 0

    async def watch(self) -> AsyncGenerator[engine_pb2.WatchKvEventsResponse, None]:
        """The answers to one WatchKvEvents; without an end.

        Raises:
            StatusError: FAILED_PRECONDITION when there is no prefix cache.
        """
        if not self._is_enabled:
            raise StatusError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "the engine runs without a prefix cache (--no-prefix-cache), so there is nothing to watch",
            )
        mirror = self._mirror or self._begin()
        watcher = _Watcher()
        mirror.watchers.append(watcher)
        try:
            await mirror.is_complete.wait()
            while True:
                if watcher.is_behind:
                    watcher.catch_up()
                    for message in _snapshot(list(mirror.blocks.values()), mirror.sequence):
                        yield message
                elif watcher.pending:
                    yield _difference(watcher.take(), mirror)
                else:
                    watcher.news.clear()
                    await watcher.news.wait()
        finally:
            mirror.watchers.remove(watcher)
            if not mirror.watchers:
                self._end(mirror)

    def _begin(self) -> _Mirror:
        mirror = self._mirror = _Mirror(self._sequence)
        loop = asyncio.get_running_loop()
        mirror.follower = asyncio.create_task(mirror.follow())
        self._send(
            WatchPrefixCache(lambda changes: loop.call_soon_threadsafe(mirror.changes.put_nowait, changes))
        )
        return mirror

    def _end(self, mirror: _Mirror) -> None:
        self._send(WatchPrefixCache(None))
        mirror.follower.cancel()
        self._sequence = mirror.sequence
        self._mirror = None


class _Watcher:
    """What one watcher has not been sent.

    Attributes:
        is_behind: it must be sent everything.
        pending: blocks by hash, True for stored and False for removed, where it was told otherwise.
        news: set when there is something to send.
    """

    def __init__(self) -> None:
        self.is_behind = True
        self.pending: dict[int, bool] = {}
        self.news = asyncio.Event()

    def hear(self, block: int, is_stored: bool) -> None:
        """A block was stored or removed."""
        self.news.set()
        if self.is_behind:
            return
        if self.pending.pop(block, is_stored) == is_stored:  # else it is as the watcher knows it
            self.pending[block] = is_stored
        if len(self.pending) > MAX_PENDING:
            self.fall_behind()

    def fall_behind(self) -> None:
        """It must be sent everything: forget what waits for it."""
        self.is_behind = True
        self.pending.clear()
        self.news.set()

    def catch_up(self) -> None:
        """It is being sent everything."""
        self.is_behind = False

    def take(self) -> dict[int, bool]:
        """What waits for it, which it is being sent."""
        pending, self.pending = self.pending, {}
        return pending


@dataclass(slots=True)
class _Mirror:
    """The prefix cache as of the changes taken in so far, by the blocks' hashes."""

    sequence: int
    blocks: dict[int, StoredBlock] = field(default_factory=dict)
    """Parents before their children, unless they were stored again later."""
    watchers: list[_Watcher] = field(default_factory=list)
    changes: asyncio.Queue[Sequence[Change]] = field(default_factory=asyncio.Queue)
    is_complete: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it holds what the cache held when it began."""
    follower: asyncio.Task[None] = field(init=False)
    _hash_of: dict[int, int] = field(default_factory=dict)
    """Of the nodes that are stored, by their number in the cache."""
    _roots: dict[Scope, int] = field(default_factory=dict)

    async def follow(self) -> None:
        """Take in the core's changes as they come."""
        while True:
            changes = await self.changes.get()
            for start in range(0, len(changes), _SLICE):
                for change in changes[start : start + _SLICE]:
                    self._take_in(change)
                self.sequence += 1
                await asyncio.sleep(0)
            self.is_complete.set()

    def _take_in(self, change: Change) -> None:
        match change:
            case Stored(node):
                parent = self._parent_hash(node)
                _, tokens = node.key
                block = self._hash_of[node.number] = block_hash(parent, tokens)
                adapter, _ = node.scope
                self.blocks[block] = StoredBlock(
                    hash=block, parent_hash=parent, token_ids=tokens, adapter=adapter
                )
                self._tell(block, is_stored=True)
            case Removed(node):
                block = self._hash_of.pop(node.number)
                del self.blocks[block]
                self._tell(block, is_stored=False)
            case Cleared():
                self._hash_of.clear()
                self._roots.clear()
                self.blocks.clear()
                for watcher in self.watchers:
                    watcher.fall_behind()

    def _tell(self, block: int, is_stored: bool) -> None:
        for watcher in self.watchers:
            watcher.hear(block, is_stored)

    def _parent_hash(self, node: PrefixNode) -> int:
        if node.parent is None:
            return self._root(node.scope)
        known = self._hash_of.get(node.parent.number)
        if known is not None:
            return known
        # It is but the way to its children: what it stood for is gone.
        return block_hash(self._parent_hash(node.parent), node.parent.key[1])

    def _root(self, scope: Scope) -> int:
        root = self._roots.get(scope)
        if root is None:
            root = self._roots[scope] = root_hash(*scope)
        return root


def _snapshot(blocks: list[StoredBlock], sequence: int) -> list[engine_pb2.WatchKvEventsResponse]:
    """Everything, in as many messages as that takes."""
    pieces = [blocks[i : i + MAX_MESSAGE_BLOCKS] for i in range(0, len(blocks), MAX_MESSAGE_BLOCKS)] or [[]]
    return [
        engine_pb2.WatchKvEventsResponse(
            sequence=sequence,
            reset=number == 0,
            more_follows=number < len(pieces) - 1,
            stored=piece,
        )
        for number, piece in enumerate(pieces)
    ]


def _difference(pending: dict[int, bool], mirror: _Mirror) -> engine_pb2.WatchKvEventsResponse:
    return engine_pb2.WatchKvEventsResponse(
        sequence=mirror.sequence,
        stored=[mirror.blocks[block] for block, is_stored in pending.items() if is_stored],
        removed=[block for block, is_stored in pending.items() if not is_stored],
    )
