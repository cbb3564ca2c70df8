"""Which layers share a block table.

Layers with the same window need the same blocks for as long, so one table serves them all. Where a model
mixes windows, its layers form groups of equally many: then a block takes as much memory in one group as in
another, all groups draw on one pool, and what a windowed group gives back serves whoever asks next (as in
vLLM's hybrid KV cache manager). A kind of layer with more layers than a group has gets several groups; the
last one of a kind may have fewer, and leaves a part of its blocks empty.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tokenwire_engine.kv_cache.block_table import ceil_div

MAX_GROUPS = 8
"""Each costs the host a table for every request: rather than have more, some memory stays empty."""


@dataclass(slots=True, frozen=True)
class LayerGroup:
    """Layers that share a block table."""

    window: int
    """Tokens that a token sees at most in each of them, itself included; 0: all before it."""
    layers: tuple[int, ...]
    """In the model's order."""


def group_layers(windows: Sequence[int]) -> tuple[LayerGroup, ...]:
    """The groups of a model, those that see the most first, given each layer's window (0: none)."""
    counts = Counter(windows)
    most_groups = max(MAX_GROUPS, len(counts))

    def num_groups(size: int) -> int:
        return sum(ceil_div(count, size) for count in counts.values())

    sizes = [size for size in range(1, max(counts.values()) + 1) if num_groups(size) <= most_groups]
    size = min(sizes, key=lambda size: (size * num_groups(size), num_groups(size)))
    groups = []
    for window in sorted(counts, key=_sight, reverse=True):
        layers = [layer for layer, own in enumerate(windows) if own == window]
        groups += [LayerGroup(window, tuple(layers[i : i + size])) for i in range(0, len(layers), size)]
    return tuple(groups)


def _sight(window: int) -> float:
    return window or math.inf


def most_blocks(num_tokens: int, windows: Sequence[int], block_size: int, step_tokens: int) -> int:
    """Most blocks that a sequence of so many tokens ever holds at a time, in all groups together.

    Args:
        windows: of each group.
        step_tokens: most tokens of it that one step computes.
    """
    blocks = ceil_div(num_tokens, block_size)
    return sum(min(blocks, most_in_sight(window, block_size, step_tokens)) for window in windows)


def most_in_sight(window: int, block_size: int, step_tokens: int) -> int:
    """Most blocks that a sequence has to hold for a step, however long it is."""
    if not window:
        return sys.maxsize
    # The tokens of the step, and what the first of them sees, or the step before that is still on its way;
    # wherever in a block they begin.
    return ceil_div(max(window - 1, step_tokens) + step_tokens, block_size) + 1


def longest_sequence(
    num_blocks: int, windows: Sequence[int], block_size: int, step_tokens: int, most: int
) -> int:
    """Tokens of the longest sequence that fits into a pool by itself, but no more than `most`."""

    def needed(num_tokens: int) -> int:
        return most_blocks(num_tokens, windows, block_size, step_tokens)

    return bisect_right(range(most + 1), num_blocks, key=needed) - 1
