"""Python's cyclic garbage collector, told how an engine allocates.

A step makes thousands of rows that form no cycles and are gone after the step. By the collector's defaults
they set it off many times a step and, since rows live through a few of its rounds, have it walk everything
that was ever loaded.
"""

from __future__ import annotations

import gc

ALLOCATIONS = 100_000
"""Objects made and not yet freed that set off a collection: more than the largest steps make."""


def tune() -> None:
    """Leave what is loaded alone from now on, and collect only when garbage really gathers."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS, 10, 10)
