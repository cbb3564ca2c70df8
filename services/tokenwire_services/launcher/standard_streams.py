"""Standard input, output and error are there and take any text, whoever starts a process.

A daemon manager, or `>&-` in a shell, may start it without one of them. What is opened first would take its
number: a socket, to which a `print` would then write. And where the locale is ASCII, text is not.
"""

from __future__ import annotations

import io
import os
import sys


def open_standard_streams() -> None:
    """Open what is closed of them on the null device, and have them spell out what they cannot express."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which is the lowest number that is free
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
    for stream, errors in (
        (sys.stdin, "replace"),
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def finish_output() -> None:
    """Write what is left to be written. When nobody reads it, or the disk is full, it is dropped without a
    word: Python would complain of it at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
