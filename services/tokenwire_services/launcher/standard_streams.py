"""Standard input, output and error are there, whoever starts a process.

A daemon manager, or `>&-` in a shell, may start it without one of them. What is opened first would take its
number: a socket, to which a `print` would then write.
"""

from __future__ import annotations

import os
import sys


def open_standard_streams() -> None:
    """Open what is closed of them on the null device."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which is the lowest number that is free
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
