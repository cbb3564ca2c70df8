"""What comes into the prefix cache and what leaves it, for whoever keeps a copy of what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tokenwire_engine.kv_cache.prefix_node import PrefixNode


class Stored(NamedTuple):
    """What a node stands for can be found from now on."""

    node: PrefixNode


class Removed(NamedTuple):
    """What a node stands for is found no more. The node may stay, as the way to its children."""

    node: PrefixNode


class Cleared(NamedTuple):
    """Nothing is found any more."""


Change = Stored | Removed | Cleared
