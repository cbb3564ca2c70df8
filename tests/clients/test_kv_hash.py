"""Hashes of cached blocks: clients compute those that the engine tells of."""

from __future__ import annotations

from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st

from tokenwire.kv_hash import block_hash, prefix_hashes, root_hash

TOKENS = st.lists(st.integers(0, (1 << 32) - 1), max_size=40)


def test_the_bytes_that_are_hashed_are_those_of_the_contract() -> None:
    def digest(data: bytes) -> bytes:
        return blake2b(data, digest_size=8).digest()

    root = digest(b"\x02\x00\x00\x00ab" + b"\x01\x00\x00\x00c")
    assert root_hash("ab", "c") == int.from_bytes(root, "little")
    block = digest(root + b"\x01\x00\x00\x00" + b"\x00\x01\x00\x00")
    assert block_hash(root_hash("ab", "c"), [1, 256]) == int.from_bytes(block, "little")


def test_the_hashes_do_not_change_from_version_to_version() -> None:
    assert prefix_hashes(list(range(32)), 16) == [11932591550985080708, 13296332717401111622]


def test_where_an_adapter_ends_and_a_salt_begins_makes_a_difference() -> None:
    assert len({root_hash("ab", "c"), root_hash("a", "bc"), root_hash("abc"), root_hash("", "abc")}) == 4


@given(TOKENS, TOKENS)
def test_equal_beginnings_have_equal_hashes_and_only_they(first: list[int], second: list[int]) -> None:
    hashes = prefix_hashes(first, 4), prefix_hashes(second, 4)
    assert [len(each) for each in hashes] == [len(first) // 4, len(second) // 4]
    for index, (one, other) in enumerate(zip(*hashes, strict=False), start=1):
        assert (one == other) == (first[: 4 * index] == second[: 4 * index])
