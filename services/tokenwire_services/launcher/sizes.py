"""Memory sizes as people write them: `512MB`, `4GiB`, `1.5g`, or a plain number of bytes."""

from __future__ import annotations

import re

_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[kmgt]i?)?b?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes that a size stands for: decimal units (`MB`, `G`) are powers of 1000, binary (`GiB`) of 1024.

    Raises:
        ValueError: the text is not a size of at least one byte.
    """
    match = _SIZE.fullmatch(text.strip())
    size = 0
    if match is not None:
        size = int(float(match["number"]) * _UNITS[(match["unit"] or "").lower()])
    if size < 1:
        raise ValueError(f"{text!r} is not a memory size; write it like 512MB, 4GiB or 1073741824")
    return size
