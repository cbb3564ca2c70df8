"""What the prefix cache finds, keeps and evicts."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.kv_cache.block_table import BlockTable, num_out_of_sight
from tokenwire_engine.kv_cache.host_tier import HostTier
from tokenwire_engine.kv_cache.prefix_cache import PrefixCache
from tokenwire_engine.kv_cache.prefix_node import PrefixChain

SIZE = 4


class Sequence:
    """Takes the blocks for some tokens, as a request does."""

    def __init__(
        self, cache: PrefixCache, pool: BlockPool, tokens: list[int], salt: str = "", num_groups: int = 1
    ) -> None:
        self.cache, self.pool, self.tokens = cache, pool, tokens
        self.chain = PrefixChain(("", salt))
        cache.follow(self.chain, lambda start, end: tokens[start:end], len(tokens) // SIZE)
        self.hits = len(self.chain.nodes)
        needed = len(tokens) // SIZE * num_groups - cache.num_spared(self.chain)
        self.fits = needed <= pool.num_free
        self.tables = [BlockTable(SIZE) for _ in range(num_groups)]
        if self.fits:
            cache.take(self.chain, self.tables)
            for table in self.tables:
                table.blocks += pool.allocate(len(tokens) // SIZE - self.hits)

    @property
    def blocks(self) -> list[int]:
        """In the group that sees the most."""
        return self.tables[0].blocks

    @property
    def held(self) -> list[int]:
        return [block for table in self.tables for block in table.held]

    def compute(self) -> None:
        if self.tables[0].num_released == len(self.blocks):
            return
        for index in range(len(self.chain.nodes), len(self.blocks)):
            tokens = tuple(self.tokens[index * SIZE : (index + 1) * SIZE])
            blocks = [table.blocks[index] if index >= table.num_released else None for table in self.tables]
            if not self.cache.append(self.chain, tokens, blocks):
                break

    def leave(self) -> None:
        for table in self.tables:
            self.pool.release(reversed(table.held))


def cached(
    num_blocks: int = 8, windows: tuple[int, ...] = (0,), num_host_blocks: int = 0
) -> tuple[PrefixCache, BlockPool]:
    pool = BlockPool(num_blocks, SIZE)
    return PrefixCache(pool, windows, HostTier(num_host_blocks) if num_host_blocks else None), pool


def served(cache: PrefixCache, pool: BlockPool, tokens: list[int], salt: str = "") -> Sequence:
    """A sequence that came, was computed, and left."""
    sequence = Sequence(cache, pool, tokens, salt)
    assert sequence.fits
    sequence.compute()
    sequence.leave()
    return sequence


def num_cached(cache: PrefixCache, tokens: list[int]) -> int:
    """Blocks that a sequence of these tokens would find."""
    chain = PrefixChain()
    cache.follow(chain, lambda start, end: tokens[start:end], len(tokens) // SIZE)
    return len(chain.nodes)


def test_a_common_beginning_is_found_block_by_block() -> None:
    cache, pool = cached()
    first = served(cache, pool, [1] * 8 + [2] * 4)
    second = Sequence(cache, pool, [1] * 8 + [3] * 4)
    assert second.hits == 2
    assert second.blocks[:2] == first.blocks[:2]
    assert second.blocks[2] not in first.blocks


def test_equal_tokens_after_other_tokens_are_not_found() -> None:
    cache, pool = cached()
    served(cache, pool, [1] * 4 + [2] * 4)
    assert Sequence(cache, pool, [3] * 4 + [2] * 4).hits == 0
    assert Sequence(cache, pool, [2] * 4).hits == 0


def test_tokens_whose_hashes_collide_are_told_apart() -> None:
    assert hash((-1, -1)) == hash((-2, -1)) == hash((-1, -2))
    cache, pool = cached()
    served(cache, pool, [-1] * 8)
    assert Sequence(cache, pool, [-2] * 8).hits == 0


def test_nothing_is_found_under_another_salt() -> None:
    cache, pool = cached()
    served(cache, pool, [1] * 8, salt="ours")
    assert Sequence(cache, pool, [1] * 8, salt="theirs").hits == 0
    assert Sequence(cache, pool, [1] * 8, salt="ours").hits == 2


def test_a_block_that_two_share_and_each_keep_is_found_when_both_have_left() -> None:
    cache, pool = cached()
    first, second = PrefixChain(), PrefixChain()
    blocks = pool.allocate(1)
    pool.share(blocks)
    assert cache.append(first, (1, 1, 1, 1), blocks)
    assert cache.append(second, (1, 1, 1, 1), blocks)
    pool.release(blocks)
    pool.release(blocks)
    assert cache.num_blocks == 1
    assert Sequence(cache, pool, [1] * 4).blocks == blocks


def test_the_chain_that_rested_longest_goes_first_its_deepest_block_before_the_others() -> None:
    cache, pool = cached(num_blocks=4)
    served(cache, pool, [1] * 8)
    served(cache, pool, [2] * 8)
    pool.allocate(1)
    assert num_cached(cache, [1] * 8) == 1
    assert num_cached(cache, [2] * 8) == 2


def test_a_held_block_is_not_evicted() -> None:
    cache, pool = cached(num_blocks=3)
    holder = Sequence(cache, pool, [1] * 8)
    holder.compute()
    assert not Sequence(cache, pool, [2] * 8).fits
    assert Sequence(cache, pool, [1] * 8).hits == 2


def test_what_two_computed_at_once_is_kept_once() -> None:
    cache, pool = cached()
    twins = [Sequence(cache, pool, [1] * 8) for _ in range(2)]
    for twin in twins:
        assert twin.hits == 0
        twin.compute()
    assert cache.num_blocks == 4
    for twin in twins:
        twin.leave()
    assert (cache.num_blocks, pool.num_idle, pool.num_free) == (2, 2, 8)


def test_after_a_reset_nothing_is_found_and_nothing_is_lost() -> None:
    cache, pool = cached()
    served(cache, pool, [1] * 8)
    running = Sequence(cache, pool, [2] * 16)
    running.compute()
    assert cache.reset() == 6
    assert (cache.num_blocks, pool.num_idle, pool.num_free) == (0, 0, 4)
    running.leave()
    assert pool.num_free == 8
    assert Sequence(cache, pool, [2] * 8).hits == 0


TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=5).map(
    lambda blocks: [token for block in blocks for token in [block] * SIZE]
)


class CacheUse(RuleBasedStateMachine):
    """Sequences come, are computed, lose sight of their beginning and leave at random; the machine keeps what
    each block of the device and of the host really holds."""

    @initialize(
        windows=st.sampled_from([(0,), (0,), (3,), (9,), (0, 3), (0, 0, 9), (9, 3)]),
        num_host_blocks=st.sampled_from([0, 2, 10]),
    )
    def begin(self, windows: tuple[int, ...], num_host_blocks: int) -> None:
        self.windows = windows
        self.cache, self.pool = cached(12, windows, num_host_blocks)
        self.live: list[Sequence] = []
        self.content: dict[int, object] = {}
        self.host_content: dict[int, object] = {}

    @rule(tokens=TOKENS, salt=st.sampled_from(["", "a"]), computed=st.booleans())
    def come(self, tokens: list[int], salt: str, computed: bool) -> None:
        sequence = Sequence(self.cache, self.pool, tokens, salt, len(self.windows))
        if not sequence.fits:
            return
        moves = self.cache.take_host_moves()
        assert len({target for _, target in moves.out}) == len(moves.out)
        for source, target in moves.out:
            self.host_content[target] = self.content[source]
        for source, target in moves.back:
            self.content[target] = self.host_content[source]
        for group, table in enumerate(sequence.tables):
            for index in range(table.num_released, len(table.blocks)):
                block, content = table.blocks[index], (group, salt, tuple(tokens[: (index + 1) * SIZE]))
                if index < sequence.hits:
                    assert self.content[block] == content
                else:
                    assert not any(block in other.held for other in self.live)
                    self.content[block] = content
        self.live.append(sequence)
        if computed:
            sequence.compute()

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.live)).compute()

    @precondition(lambda self: self.live and any(self.windows))
    @rule(data=st.data())
    def lose_sight(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        for table, window in zip(sequence.tables, self.windows, strict=True):
            hidden = num_out_of_sight(len(sequence.tokens), window, SIZE)
            self.pool.release(table.blocks[table.num_released : hidden])
            table.num_released = max(hidden, table.num_released)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        self.live.remove(sequence)
        sequence.leave()

    @rule()
    def reset(self) -> None:
        self.cache.reset()

    @invariant()
    def counts_are_exact(self) -> None:
        held = [block for sequence in self.live for block in sequence.held]
        assert all(self.pool.holders(block) == held.count(block) for block in range(12))
        assert self.pool.num_free == 12 - len(set(held))
        assert self.pool.num_idle <= self.cache.num_blocks <= self.pool.num_idle + len(set(held))

    @invariant()
    def a_node_is_somewhere_or_on_the_way_to_one_that_is(self) -> None:
        nodes = self.cache._nodes.values()
        for node in nodes:
            assert node.is_cached
            assert node.is_present or node.num_children
            assert node.num_children == sum(other.parent is node for other in nodes)
            if node.parent is not None:
                assert node.parent.is_cached
                assert node.parent.is_present or self.windows[0]
            for content, wider in zip(node.contents[1:], node.contents, strict=False):
                assert wider.is_present or not content.is_present
        contents = [content for node in nodes for content in node.contents]
        on_host = [content.host_block for content in contents if content.host_block is not None]
        assert len(on_host) == len(set(on_host))


CacheUse.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestCacheUse = CacheUse.TestCase
