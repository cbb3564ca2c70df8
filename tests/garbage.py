"""What is freed as soon as nobody has it, and what waits for the garbage collector."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected(*packages: str) -> Iterator[Counter[str]]:
    """Counts, once left, objects of these packages' classes that only a collection has found, by class."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kinds = [type(each) for each in gc.garbage]
        found.update(kind.__qualname__ for kind in kinds if kind.__module__.startswith(packages))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
