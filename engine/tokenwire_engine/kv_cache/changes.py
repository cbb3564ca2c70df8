"""What comes into the prefix cache and what leaves it, for whoever keeps a copy of what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tokenwire_engine.kv_cache.prefix_node import PrefixNode


class Stored(NamedTuple):
    """A block can be found from now on; its parent can, too."""

    node: PrefixNode


class Removed(NamedTuple):
    """A block is found no more; none of its children is."""

    node: PrefixNode


class Cleared(NamedTuple):
    """No block is found any more."""


Change = Stored | Removed | Cleared
