"""What the prefix cache knows of one block's worth of tokens, and of the beginning of one sequence."""

from __future__ import annotations

from dataclasses import dataclass, field

Scope = tuple[str, str]
"""Who shares blocks: the adapter that computes their content, and the salt of those who may see it."""

Key = tuple[int | Scope, tuple[int, ...]]
"""A node's parent (the scope, for a sequence's first block), and the tokens of its block."""


@dataclass(slots=True, eq=False)
class PrefixNode:
    """One block's worth of tokens after those of its parent."""

    number: int
    """Never used for another node."""
    key: Key
    scope: Scope
    """Of the sequences that begin with it."""
    parent: PrefixNode | None
    """None: it is a sequence's first."""
    contents: tuple[Content, ...] = ()
    """Its keys and values in each group of layers, those that see the most first."""
    num_children: int = 0
    is_cached: bool = True
    """Whether it can be found; once it cannot, it never can again."""

    @property
    def is_present(self) -> bool:
        """Whether its content is held somewhere, in the layers that see the most at least."""
        return self.contents[0].is_present


@dataclass(slots=True, eq=False)
class Content:
    """The keys and values of one node's tokens in one group of layers, and where they are."""

    node: PrefixNode
    group: int
    blocks: tuple[int, ...] = ()
    """Physical blocks that hold it: a single idle one, or held ones (several when it was computed more than
    once at the same time)."""
    host_block: int | None = None
    """The block of host memory that holds it, if no physical one does."""

    @property
    def is_present(self) -> bool:
        """Whether it is held somewhere."""
        return bool(self.blocks) or self.host_block is not None

    @property
    def block(self) -> int:
        """One of its physical blocks."""
        return self.blocks[0]


@dataclass(slots=True)
class PrefixChain:
    """The beginning of one sequence as far as it is, or was, cached."""

    scope: Scope = ("", "")
    nodes: list[PrefixNode] = field(default_factory=list)
    """Of the sequence's full blocks, in order."""
