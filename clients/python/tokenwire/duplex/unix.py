"""Unix sockets by name: a path of the file system, or `@` and a name that no file stands for."""

from __future__ import annotations

import socket

UNIX = "unix:"
"""What an address begins with that is such a socket's."""
_MOST_BYTES = 107
"""Of a socket's name, as the system has it."""


def socket_name(address: str) -> str:
    """What the system calls the socket of an address."""
    path = address.removeprefix(UNIX)
    return "\0" + path[1:] if path.startswith("@") else path


def check_socket(option: str, path: str) -> None:
    """Whether a socket may be named so.

    Raises:
        ValueError: it may not; names the option.
    """
    if not path.removeprefix("@") or len(path.encode()) > _MOST_BYTES or "\0" in path:
        raise ValueError(
            f"{option} is {path!r}; expected a path, or @ and a name, of at most {_MOST_BYTES} bytes"
        )


def connect(address: str) -> socket.socket:
    """Connect to an address, at once, as the system does.

    Raises:
        OSError: nobody listens there, or too many wait.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.setblocking(False)
        connection.connect(socket_name(address))
    except OSError:
        connection.close()
        raise
    return connection
