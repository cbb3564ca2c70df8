"""A host and a port, as URLs have them: `localhost:80`, `127.0.0.1:80`, `[::1]:80`."""

from __future__ import annotations

import re

_AUTHORITY = re.compile(r"(?:\[[0-9a-fA-F:.]+(?:%\w+)?\]|[^\s:/\[\]]+):(\d{1,5})")


def authority(host: str, port: int) -> str:
    """A host, by its name or address, and a port."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_authority(address: str) -> bool:
    """Whether an address is a host and a port that one can connect to."""
    found = _AUTHORITY.fullmatch(address)
    return found is not None and 0 < int(found[1]) < 65536
