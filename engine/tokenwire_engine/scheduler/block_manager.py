"""Which KV blocks each request holds, from the step that admits it until it leaves.

A table only grows at its end. A request begins with what others have computed: the blocks of its beginning in
the prefix cache or, as a sample, its sibling's prompt, of which the one block that it goes on to write to is
copied. It gives back early only what it does not see any more.

Launched steps may still read or write blocks that were given back: whatever these are used for next runs
after them.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.kv_cache.block_table import BlockTable, ceil_div, num_out_of_sight
from tokenwire_engine.kv_cache.prefix_cache import PrefixCache
from tokenwire_engine.scheduler.counters import Counters
from tokenwire_engine.scheduler.request import Request

Copy = tuple[int, int]
"""A block whose content is copied, and where to."""


class BlockManager:
    """Gives blocks to requests, and takes them back."""

    def __init__(
        self, pool: BlockPool, window: int, prefix_cache: PrefixCache | None, counters: Counters
    ) -> None:
        """
        Args:
            window: tokens that a token sees at most, itself included; 0: all before it.
            prefix_cache: of the pool; None: nothing is found, and nothing kept.
            counters: where finds are counted.
        """
        self._pool = pool
        self._size = pool.block_size
        self._window = window
        self._cache = prefix_cache
        self._counters = counters

    def num_needed(self, request: Request) -> int:
        """Free blocks that it takes to begin a request: for all of its known tokens but those that are found
        computed."""
        needed = ceil_div(request.num_tokens, self._size)
        origin = request.origin
        if origin is not None and origin.num_released > self._num_out_of_sight(request.num_tokens - 1):
            origin = request.origin = None  # whoever had it has left, or gone on too far
        if origin is not None:
            return needed - (request.num_tokens - 1) // self._size
        if self._cache is None:
            return needed
        # At least the last known token is computed, for the token after it, and every prompt token whose
        # log-probabilities are still due.
        most = request.num_prompt_scored if request.needs_all_prompt_logits else request.num_tokens - 1
        self._cache.follow(request.cache, request.tokens, most // self._size)
        return needed - self._cache.num_spared(request.cache)

    def begin(self, request: Request) -> list[Copy]:
        """Give a request, whose needs were just looked at and can be met, what is found computed; what is to
        be copied for it before the step that admits it."""
        origin, request.origin = request.origin, None
        if origin is not None:
            return self._fork(request, origin)
        if self._cache is not None:
            self._counters.host_hit_blocks += self._cache.take(request.cache, request.table)
            request.num_computed = request.table.capacity
            self._counters.prefix_query_tokens += request.num_tokens
            self._counters.prefix_hit_tokens += request.num_computed
        return []

    def grow(self, table: BlockTable, num_tokens: int) -> list[int]:
        """Add the blocks that a table lacks for so many tokens; which."""
        added = self._pool.allocate(table.blocks_needed(num_tokens))
        table.blocks += added
        return added

    def slide(self, table: BlockTable, position: int) -> None:
        """Give back the blocks that a request does not see any more from a position on."""
        if (num_hidden := self._num_out_of_sight(position)) > table.num_released:
            self._pool.release(table.blocks[table.num_released : num_hidden])
            table.num_released = num_hidden

    def keep_filled(self, filled: Iterable[tuple[Request, BlockTable, int]]) -> None:
        """Let blocks be found whose last token has been computed: of each request the table when that was
        planned, and how many of its tokens are computed."""
        if self._cache is None:
            return
        for request, table, num_computed in filled:
            if request.table is not table:  # it has left, and its blocks may be somebody else's
                continue
            for index in range(len(request.cache.nodes), num_computed // self._size):
                if index < table.num_released:
                    break
                tokens = tuple(request.tokens(index * self._size, (index + 1) * self._size))
                if not self._cache.append(request.cache, tokens, table.blocks[index]):
                    break

    def end(self, request: Request) -> None:
        """Take a request's blocks back."""
        table = request.table
        self._pool.release(reversed(table.held))  # the deepest first, as the prefix cache wants it
        table.num_released = len(table.blocks)
        request.table = BlockTable(self._size)
        request.num_computed = 0

    def _fork(self, request: Request, origin: BlockTable) -> list[Copy]:
        """Give a sample the prompt that its sibling has computed, all but the last token."""
        request.num_computed = request.num_tokens - 1
        num_full, rest = divmod(request.num_computed, self._size)
        table = request.table
        table.blocks = origin.blocks[:num_full]
        table.num_released = self._num_out_of_sight(request.num_computed)
        self._pool.share(table.held)
        if not rest:
            return []
        copy = self._pool.allocate(1)
        table.blocks += copy
        return [(origin.blocks[num_full], copy[0])]

    def _num_out_of_sight(self, position: int) -> int:
        return num_out_of_sight(position, self._window, self._size)
