"""Ports for processes that must be told theirs before they listen."""

from __future__ import annotations

import contextlib
import random
import socket

_PORTS = range(10_000, 32_768)
"""Below those that Linux gives to connections, so that none takes a port before the process listens on it."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on. Picked at random: other tests may look for some at the same time."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            break
    return found


def address(port: int, session_socket: str | None = None) -> str:
    """Of a process on this machine, with the Unix socket for its sessions if it has one."""
    return f"127.0.0.1:{port}" + ("" if session_socket is None else f",{session_socket}")
