"""Which KV blocks each request holds, from the step that admits it until it leaves.

A request has a table for each group of layers, which only grow at their ends. It begins with what others have
computed: the blocks of its beginning in the prefix cache or, as a sample, its sibling's prompt, of which the
blocks that it goes on to write to are copied. It gives back early only what the layers of a group do not see
any more.

Launched steps may still read or write blocks that were given back: whatever these are used for next runs
after them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.kv_cache.block_table import BlockTable, ceil_div, num_out_of_sight
from tokenwire_engine.kv_cache.groups import most_in_sight
from tokenwire_engine.kv_cache.prefix_cache import PrefixCache
from tokenwire_engine.scheduler.cohort import Cohort
from tokenwire_engine.scheduler.counters import Counters
from tokenwire_engine.scheduler.request import NO_SLOT, Request

Copy = tuple[int, int]
"""A block whose content is copied, and where to."""


class BlockManager:
    """Gives blocks to requests, and takes them back."""

    def __init__(
        self,
        pool: BlockPool,
        windows: Sequence[int],
        step_tokens: int,
        prefix_cache: PrefixCache | None,
        counters: Counters,
    ) -> None:
        """
        Args:
            windows: of each group of layers, those that see the most first: tokens that a token sees at most,
                itself included; 0: all before it.
            step_tokens: most tokens in one step.
            prefix_cache: of the pool and the groups; None: nothing is found, and nothing kept.
            counters: where finds are counted.
        """
        self._pool = pool
        self._size = self.block_size = pool.block_size
        self.windows = tuple(windows)
        self.places_to_slide = {(window - 1) % self._size for window in windows if window}
        """In a block: where a request comes to see a block less. What it cannot give back yet, since its
        tokens are still being computed, it gives back when it sees another less."""
        self._most_in_sight = [most_in_sight(window, self._size, step_tokens) for window in windows]
        self._most_of_a_step = sum(map(bool, windows)) * (step_tokens // self._size)
        self._cache = prefix_cache
        self._counters = counters
        self.num_groups = len(self.windows)

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return self._pool.num_free

    def make_tables(self) -> list[BlockTable]:
        """The tables of a request that holds nothing."""
        return [BlockTable(self._size) for _ in self.windows]

    def num_needed(self, request: Request) -> int:
        """Free blocks that it takes to begin a request and come to the end of its known tokens: for all but
        those that are found computed, and those that take the place of others in a window."""
        origin = request.origin
        if origin is not None and not self._still_sees(origin, request.num_tokens - 1):
            origin = request.origin = None  # whoever had it has left, or gone on too far
        if origin is not None:  # the block of the last token is its own, in each group
            return self.num_groups
        if self._cache is None:
            return self._num_reached(request, 0)
        # At least the last known token is computed, for the token after it, and every prompt token whose
        # log-probabilities are still due.
        most = request.num_prompt_scored if request.needs_all_prompt_logits else request.num_tokens - 1
        self._cache.follow(request.cache, request.tokens, most // self._size)
        num_found = len(request.cache.nodes) * self._size
        return self._num_reached(request, num_found) - self._cache.num_spared(request.cache)

    def begin(self, request: Request) -> list[Copy]:
        """Give a request, whose needs were just looked at and can be met, what is found computed; what is to
        be copied for it before the step that admits it."""
        origin, request.origin = request.origin, None
        copies: list[Copy] = []
        if origin is not None:
            copies = self._fork(request, origin)
        elif self._cache is not None:
            self._counters.host_hit_blocks += self._cache.take(request.cache, request.tables)
            request.num_computed = request.capacity
            self._counters.prefix_query_tokens += request.num_tokens
            self._counters.prefix_hit_tokens += request.num_computed
        request.num_settled = request.num_computed
        return copies

    def most_growth(self, num_requests: int) -> int:
        """Most blocks that one step of so many running requests takes."""
        return num_requests * self.num_groups + self._most_of_a_step

    def num_lacking(self, request: Request, end: int) -> int:
        """Blocks that `grow` would add."""
        return sum(self._lacking(request, end))

    def grow(self, request: Request, end: int) -> list[list[int]]:
        """Add the blocks that a request lacks to compute its tokens up to `end`; which, in each group.

        Where layers see all, those of all its tokens come at once, so that a prefill, once begun, never waits
        for another; where they see only a window, as many as it has left behind will do for the next ones.
        """
        added = [self._pool.allocate(lacking) for lacking in self._lacking(request, end)]
        for table, blocks in zip(request.tables, added, strict=True):
            table.blocks += blocks
        return added

    def append(self, cohort: Cohort) -> list[list[int]]:
        """Add a block in each group to the tables of requests that decode; which, in each group."""
        added = [self._pool.allocate(len(cohort)) for _ in self.windows]
        for tables, blocks in zip(cohort.blocks, added, strict=True):
            deque(map(list.append, tables, blocks), maxlen=0)
        return added

    def slide(self, request: Request, position: int) -> None:
        """Give back the blocks that a request does not see any more from a position on, but for those that
        the prefix cache is still to get."""
        most = position if self._cache is None else request.num_settled
        for table, window in zip(request.tables, self.windows, strict=True):
            num_hidden = min(num_out_of_sight(position, window, self._size), most // self._size)
            if num_hidden > table.num_released:
                self._pool.release(table.blocks[table.num_released : num_hidden])
                table.num_released = num_hidden

    def keep_filled(self, filled: Iterable[tuple[Request, int]]) -> None:
        """Let blocks be found whose last token has been computed: of each request, and how many of its
        tokens are computed. Those of requests that have left since may be somebody else's."""
        if self._cache is not None:
            for request, num_computed in filled:
                if request.slot != NO_SLOT:
                    self._keep(request, num_computed)

    def keep_all(self, requests: Iterable[Request]) -> None:
        """As `keep_filled`, of requests all of whose known tokens are computed."""
        if self._cache is not None:
            for request in requests:
                if request.slot != NO_SLOT:
                    self._keep(request, request.num_tokens)

    def num_held(self, request: Request) -> int:
        """Blocks that a request would give back if it left."""
        return sum(len(table.blocks) - table.num_released for table in request.tables)

    def end(self, request: Request) -> None:
        """Take a request's blocks back."""
        for table in request.tables:
            self._pool.release(reversed(table.held))  # the deepest first, as the prefix cache wants it
            table.num_released = len(table.blocks)
        request.tables = self.make_tables()
        request.num_computed = request.num_settled = 0

    def _keep(self, request: Request, num_computed: int) -> None:
        assert self._cache is not None
        size, tables, chain = self._size, request.tables, request.cache
        request.num_settled = num_computed
        for index in range(len(chain.nodes), num_computed // size):
            tokens = tuple(request.tokens(index * size, (index + 1) * size))
            blocks = [table.blocks[index] if index >= table.num_released else None for table in tables]
            if not self._cache.append(chain, tokens, blocks):
                break

    def _fork(self, request: Request, origin: list[BlockTable]) -> list[Copy]:
        """Give a sample the prompt that its sibling has computed, all but the last token."""
        request.num_computed = request.num_tokens - 1
        num_full, rest = divmod(request.num_computed, self._size)
        for table, source, window in zip(request.tables, origin, self.windows, strict=True):
            table.blocks = source.blocks[:num_full]
            table.num_released = num_out_of_sight(request.num_computed, window, self._size)
            self._pool.share(table.held)
        if not rest:
            return []
        copies = self._pool.allocate(len(self.windows))
        for table, block in zip(request.tables, copies, strict=True):
            table.blocks.append(block)
        return [(source.blocks[num_full], block) for source, block in zip(origin, copies, strict=True)]

    def _num_reached(self, request: Request, num_found: int) -> int:
        """Blocks in a request's tables when it holds the most, if so many tokens are found computed: those
        out of sight by then included."""
        num_blocks = ceil_div(request.num_tokens, self._size)
        return sum(
            min(num_blocks, num_out_of_sight(num_found, window, self._size) + in_sight)
            for window, in_sight in zip(self.windows, self._most_in_sight, strict=True)
        )

    def _lacking(self, request: Request, end: int) -> list[int]:
        most = max(end, request.num_tokens)
        return [
            table.blocks_needed(end if window else most)
            for table, window in zip(request.tables, self.windows, strict=True)
        ]

    def _still_sees(self, tables: list[BlockTable], position: int) -> bool:
        """Whether tables hold all that a token at a position sees."""
        return all(
            table.num_released <= num_out_of_sight(position, window, self._size)
            for table, window in zip(tables, self.windows, strict=True)
        )
