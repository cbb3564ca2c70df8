"""Where a process finds the one behind it: a host and a port, and perhaps Unix sockets for its session.

Written with commas between them, `127.0.0.1:50051,/run/engine`. What is not the session goes to the port.
Where several processes share that, each has a socket of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenwire.address import is_authority
from tokenwire.duplex.unix import UNIX, check_socket


@dataclass(slots=True, frozen=True)
class ProcessAddress:
    """An address. Made by `parse`.

    Attributes:
        authority: "host:port", by which the process is known, too.
        sessions: where its sessions are opened, the best place first: the same, or "unix:" and a socket's
            name each.
    """

    authority: str
    sessions: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, option: str) -> ProcessAddress:
        """What was given to an option.

        Raises:
            ValueError: it is no address; names the option.
        """
        authority, *sockets = text.split(",")
        if not is_authority(authority):
            raise ValueError(
                f"{option} is {text!r}; expected host:port, such as 127.0.0.1:50051 or [::1]:50051, "
                "and perhaps a comma and a Unix socket"
            )
        for socket in sockets:
            check_socket(f"the socket of {option}", socket)
        return cls(authority, tuple(UNIX + socket for socket in sockets) or (authority,))
