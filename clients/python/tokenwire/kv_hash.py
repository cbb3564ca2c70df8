"""What a block of an engine's KV cache is called by all who speak of it.

    root   = H(len(adapter) || adapter || len(salt) || salt)      for a sequence's first block, as its parent
    block  = H(parent || token || token || ...)

H is BLAKE2b with a digest of 8 bytes, read as a little-endian number; lengths and tokens are little-endian
32-bit numbers, texts are UTF-8, a parent is its 8 bytes. So the same tokens have the same hash in every
process and in every language, and whoever has a prompt can tell which engine has computed its beginning.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b


def root_hash(adapter: str = "", cache_salt: str = "") -> int:
    """The parent of first blocks: of all requests with this adapter and this salt."""
    texts = [text.encode() for text in (adapter, cache_salt)]
    return _hash(b"".join(struct.pack("<I", len(text)) + text for text in texts))


def block_hash(parent: int, token_ids: Sequence[int]) -> int:
    """A block of these tokens after the block (or the root) `parent`."""
    return _hash(struct.pack(f"<Q{len(token_ids)}I", parent, *token_ids))


def prefix_hashes(
    token_ids: Sequence[int], block_size: int, adapter: str = "", cache_salt: str = ""
) -> list[int]:
    """The full blocks that a sequence begins with, in order."""
    hashes: list[int] = []
    parent = root_hash(adapter, cache_salt)
    for start in range(0, len(token_ids) - block_size + 1, block_size):
        parent = block_hash(parent, token_ids[start : start + block_size])
        hashes.append(parent)
    return hashes


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
