"""Binding a gRPC server to an address."""

from __future__ import annotations

import socket

import grpc


def listen(server: grpc.aio.Server, host: str, port: int) -> int:
    """Let a server listen on `host` (a name or an address) and `port`; 0 chooses a free one. The port.

    Raises:
        OSError: when that cannot be, naming the address and the system's reason.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        _try(host, port)
        return server.add_insecure_port(address)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OSError(f"cannot listen on {address}: {reason}") from error


def _try(host: str, port: int) -> None:
    # gRPC says only that binding failed, and on stderr besides; the system says why.
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
