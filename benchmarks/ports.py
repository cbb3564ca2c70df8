"""Free TCP ports."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A port on the loopback interface that nobody listens on right now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
