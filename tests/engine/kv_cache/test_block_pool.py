"""Blocks are held by those who were given them, and by nobody else."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tokenwire_engine.kv_cache.block_pool import BlockPool


def test_allocated_blocks_are_distinct_and_no_longer_free() -> None:
    pool = BlockPool(num_blocks=8, block_size=16)
    first, second = pool.allocate(3), pool.allocate(5)
    assert sorted(first + second) == list(range(8))
    assert pool.num_free == 0


def test_asking_for_more_than_is_free_takes_nothing_and_says_how_many_there_are() -> None:
    pool = BlockPool(num_blocks=4, block_size=16)
    with pytest.raises(ValueError, match="5 blocks asked for, 4 free"):
        pool.allocate(5)
    assert pool.num_free == 4


def test_a_shared_block_is_free_only_when_its_last_holder_lets_go() -> None:
    pool = BlockPool(num_blocks=1, block_size=16)
    blocks = pool.allocate(1)
    pool.share(blocks)
    pool.release(blocks)
    assert (pool.holders(0), pool.num_free) == (1, 0)
    pool.release(blocks)
    assert (pool.holders(0), pool.num_free) == (0, 1)


def test_a_free_block_can_be_neither_released_nor_shared() -> None:
    pool = BlockPool(num_blocks=1, block_size=16)
    with pytest.raises(ValueError, match="released more often than it was taken"):
        pool.release([0])
    with pytest.raises(ValueError, match="only a held or idle block can be shared"):
        pool.share([0])


def test_a_pool_has_at_least_one_block() -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        BlockPool(num_blocks=0, block_size=16)


class PoolUse(RuleBasedStateMachine):
    """Takes, shares and releases at random, and counts along."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(num_blocks=12, block_size=16)
        self.held: list[int] = []

    @rule(count=st.integers(0, 12))
    def allocate(self, count: int) -> None:
        if count <= self.pool.num_free:
            taken = self.pool.allocate(count)
            assert not set(taken) & set(self.held)
            self.held += taken

    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        if self.held:
            block = data.draw(st.sampled_from(self.held))
            self.pool.share([block])
            self.held.append(block)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.held:
            block = data.draw(st.sampled_from(self.held))
            self.pool.release([block])
            self.held.remove(block)

    @invariant()
    def counts_are_exact(self) -> None:
        for block in range(12):
            assert self.pool.holders(block) == self.held.count(block)
        assert self.pool.num_free == 12 - len(set(self.held))


TestPoolUse = PoolUse.TestCase
