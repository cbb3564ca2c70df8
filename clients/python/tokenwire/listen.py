"""Binding a gRPC server to an address."""

from __future__ import annotations

import socket

import grpc

from tokenwire.address import authority


def listen(server: grpc.aio.Server, host: str, port: int, reuse_port: bool = False) -> int:
    """Let a gRPC server listen on `host` (a name or an address) and `port`; 0 chooses a free one. The port.

    Args:
        reuse_port: whether the server was made to share the port with others.

    Raises:
        OSError: when that cannot be, naming the address and the system's reason.
    """
    address = authority(host, port)
    try:
        _try(host, port, reuse_port)
        return server.add_insecure_port(address)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OSError(f"cannot listen on {address}: {reason}") from error


def _try(host: str, port: int, reuse_port: bool) -> None:
    # gRPC says only that binding failed, and on stderr besides; the system says why.
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            probe.bind(address)
