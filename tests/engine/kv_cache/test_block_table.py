"""How many blocks a sequence needs."""

from __future__ import annotations

from tokenwire_engine.kv_cache.block_table import BlockTable, ceil_div


def test_an_empty_table_needs_a_block_for_the_first_token() -> None:
    table = BlockTable(block_size=16)
    assert table.capacity == 0
    assert table.blocks_needed(1) == 1


def test_blocks_are_needed_only_for_tokens_beyond_the_capacity() -> None:
    table = BlockTable(block_size=16, blocks=[7, 3])
    assert table.capacity == 32
    assert [table.blocks_needed(tokens) for tokens in (0, 32, 33, 48, 49)] == [0, 0, 1, 1, 2]


def test_ceil_div_rounds_up() -> None:
    assert [ceil_div(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
