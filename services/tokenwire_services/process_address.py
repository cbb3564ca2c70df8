"""Where a process finds the one behind it: a host and a port, and perhaps a Unix socket for its session.

Written with a comma between them, `127.0.0.1:50051,/run/engine`. What is not the session goes to the port.
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
        sessions: where its sessions are opened: the same, or "unix:" and the socket's name.
    """

    authority: str
    sessions: str

    @classmethod
    def parse(cls, text: str, option: str) -> ProcessAddress:
        """What was given to an option.

        Raises:
            ValueError: it is no address; names the option.
        """
        authority, comma, socket = text.partition(",")
        if not is_authority(authority):
            raise ValueError(
                f"{option} is {text!r}; expected host:port, such as 127.0.0.1:50051 or [::1]:50051, "
                "and perhaps a comma and a Unix socket"
            )
        if comma:
            check_socket(f"the socket of {option}", socket)
        return cls(authority, UNIX + socket if comma else authority)
