"""Which blocks one engine's prefix cache holds, as far as its events have told.

Hashes only, and no more than `max_blocks` of them: what comes past that is not noted, so that the view may
know less than there is. It may also lag behind; both cost a prefix computed anew, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import grpc

from tokenwire.kv_hash import block_hash, root_hash
from tokenwire.v1 import engine_pb2, engine_pb2_grpc

MAX_BLOCKS = 1 << 18


class KvView:
    """The hashes of one engine's blocks; empty while nothing is known."""

    def __init__(self, max_blocks: int = MAX_BLOCKS) -> None:
        self._max_blocks = max_blocks
        self._blocks: set[int] = set()

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, block: int) -> bool:
        return block in self._blocks

    async def follow(self, stub: engine_pb2_grpc.EngineAsyncStub) -> None:
        """Follow an engine's events until the connection breaks, or at once if it serves none."""
        call = stub.WatchKvEvents(engine_pb2.WatchKvEventsRequest())
        try:
            async for message in call:
                self.apply(message)
        except grpc.aio.AioRpcError:  # a broken connection is reported by the session's reader
            pass
        finally:
            call.cancel()
            self._blocks.clear()

    def apply(self, message: engine_pb2.WatchKvEventsResponse) -> None:
        """Note what a message says."""
        if message.reset:
            self._blocks.clear()
        self._blocks.difference_update(message.removed)
        room = self._max_blocks - len(self._blocks)
        self._blocks.update(block.hash for block in message.stored[:room])


class Prefix:
    """The blocks that a sequence begins with, hashed no further than somebody asks."""

    def __init__(self, token_ids: Sequence[int], adapter: str, cache_salt: str) -> None:
        self._token_ids = token_ids
        self._root = root_hash(adapter, cache_salt)
        self._hashes: dict[int, list[int]] = {}
        """By block size."""

    def tokens_in(self, view: KvView, block_size: int) -> int:
        """How many of the sequence's first tokens a view holds, in whole blocks.

        Blocks behind one that is missing are not looked for.
        """
        if not len(view) or block_size < 1:
            return 0
        num_blocks = 0
        for block in self._blocks(block_size):
            if block not in view:
                break
            num_blocks += 1
        return num_blocks * block_size

    def _blocks(self, block_size: int) -> Iterator[int]:
        hashes = self._hashes.setdefault(block_size, [])
        for number in range(len(self._token_ids) // block_size):
            if number == len(hashes):
                tokens = self._token_ids[number * block_size : (number + 1) * block_size]
                hashes.append(block_hash(hashes[-1] if hashes else self._root, tokens))
            yield hashes[number]
