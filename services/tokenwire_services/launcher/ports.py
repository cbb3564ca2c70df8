"""Whether the ports to listen on are free, asked before anything is started.

gRPC servers share a port silently (`SO_REUSEPORT`), so a second stack would answer half of the first one's
requests; the question has to be asked without that option.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping

from tokenwire.address import authority


class PortError(Exception):
    """A port cannot be listened on."""


def check_ports(addresses: Mapping[str, tuple[str, int]]) -> None:
    """Check that each option's `(host, port)` can be listened on.

    Raises:
        PortError: naming the option, the address and what is wrong.
    """
    taken: dict[int, str] = {}
    for option, (host, port) in addresses.items():
        if port in taken:
            raise PortError(f"{option} and {taken[port]} are both {port}; give each process its own port")
        taken[port] = option
        _check_port(option, host, port)


def _check_port(option: str, host: str, port: int) -> None:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise PortError(f"cannot listen on {host!r}: {error.strerror}") from None
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortError(f"port {port} is already in use; choose another with {option}") from None
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise PortError(f"cannot listen on {authority(host, port)}: {reason}") from None
