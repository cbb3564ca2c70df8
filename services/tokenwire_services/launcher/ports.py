"""Whether the ports to listen on are free, asked before anything is started.

gRPC servers share a port silently (`SO_REUSEPORT`), so a second stack would answer half of the first one's
requests; the question has to be asked without that option.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from tokenwire.address import authority


class PortError(Exception):
    """A port cannot be listened on."""


@dataclass(slots=True, frozen=True)
class Ports:
    """What an option has processes listen on: a port, or as many from that on as there are processes."""

    option: str
    host: str
    first: int
    count: int = 1

    def __str__(self) -> str:
        last = self.first + self.count - 1
        return f"{self.first}" if self.count == 1 else f"{self.first} to {last}"


def check_ports(wanted: Iterable[Ports]) -> None:
    """Check that all ports can be listened on, and that no two options have one in common.

    Raises:
        PortError: naming the option, the address and what is wrong.
    """
    taken: dict[int, Ports] = {}
    for ports in wanted:
        for port in range(ports.first, ports.first + ports.count):
            if port in taken:
                raise PortError(_in_common(ports, taken[port]))
            taken[port] = ports
            _check_port(ports, port)


def _in_common(one: Ports, other: Ports) -> str:
    if one.count == other.count == 1:
        return f"{one.option} and {other.option} are both {one}; give each process its own port"
    return f"{one.option} is {one} and {other.option} {other}; give each process its own port"


def _check_port(ports: Ports, port: int) -> None:
    option, host = ports.option, ports.host
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
                which = "" if ports.count == 1 else f", which is {ports} for {ports.count} workers"
                raise PortError(
                    f"port {port} is already in use; choose another with {option}{which}"
                ) from None
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise PortError(f"cannot listen on {authority(host, port)}: {reason}") from None
