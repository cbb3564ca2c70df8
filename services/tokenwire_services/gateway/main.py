"""The gateway process, from its configuration to its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys

import uvloop

from tokenwire.address import authority
from tokenwire_services.garbage import keep_what_exists
from tokenwire_services.gateway.config import GatewayConfig
from tokenwire_services.gateway.server import GatewayServer, listen
from tokenwire_services.metrics_port import serving_metrics


def run(config: GatewayConfig) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. 1 when the address is not to be had."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(message)s")
    # What is wrong with a request is said to whoever sent it.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    try:
        listener = listen(config.host, config.port, config.reuse_port)
    except OSError as error:
        return _refuse(authority(config.host, config.port), error)
    return uvloop.run(_serve(config, listener))


def _refuse(address: str, error: OSError) -> int:
    """Say what is wrong with an address; the exit code."""
    print(f"tokenwire gateway: cannot listen on {address}: {error.strerror or error}", file=sys.stderr)
    return 1


async def _serve(config: GatewayConfig, listener: socket.socket) -> int:
    server = GatewayServer(config)
    with contextlib.ExitStack() as serving:
        if config.metrics_port is not None:
            registry = server.metrics.registry
            try:
                serving.enter_context(serving_metrics(registry, config.metrics_host, config.metrics_port))
            except OSError as error:
                return _refuse(f"{authority(config.metrics_host, config.metrics_port)} for metrics", error)
        announcing = asyncio.create_task(_announce(server, config, listener.getsockname()[1]))
        await server.serve([listener])
        announcing.cancel()
    return 0


async def _announce(server: GatewayServer, config: GatewayConfig, port: int) -> None:
    """Report the port once it listens, and readiness once requests can be served."""
    url = f"http://{authority(config.host, port)}"
    waiting = f"waiting for the tokenizer service at {config.tokenizer_address.authority}"
    if config.status_fd is None:  # nobody supervises it, and shows what it reports
        logging.getLogger(__name__).info("listening on %s, %s", url, waiting)
    _report(config.status_fd, waiting, port)
    await server.link.wait_open()
    keep_what_exists()
    logging.getLogger(__name__).info("serving on %s", url)
    _report(config.status_fd, "ready", port)


def _report(status_fd: int | None, phase: str, port: int) -> None:
    if status_fd is not None:
        with contextlib.suppress(OSError):  # nobody reads any more
            os.write(status_fd, json.dumps({"phase": phase, "port": port}).encode() + b"\n")
