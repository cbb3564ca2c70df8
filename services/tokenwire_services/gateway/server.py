"""The HTTP server: uvicorn, with the tokenizer link around it and an end that tells open streams why.

On SIGTERM or SIGINT the socket closes, requests in flight get a moment, those left end with an error event,
and the process is gone within about two seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from types import FrameType

import uvicorn

from tokenwire_services.gateway.app import create_app
from tokenwire_services.gateway.config import GatewayConfig
from tokenwire_services.gateway.http_protocol import BoundedHttpProtocol
from tokenwire_services.gateway.metrics import Metrics
from tokenwire_services.gateway.tokenizer_link import TokenizerLink

_GRACE_S = 0.8
"""For requests to finish by themselves once a signal came."""
_LAST_WORDS_S = 0.5
"""For error events to be written to those that did not."""
_CLOSING_S = 1
_KEEP_ALIVE_S = 75
_TICK_S = 1.0
"""Between two looks at the clock, for the responses' dates."""
_BACKLOG = 2048


class GatewayServer(uvicorn.Server):
    """One gateway, on a socket that listens already. Make it on the event loop that serves it."""

    def __init__(self, config: GatewayConfig) -> None:
        self._signalled = asyncio.Event()
        self.metrics = metrics = Metrics()
        self.link = TokenizerLink(
            config.tokenizer_address, metrics, config.request_timeout_s, config.failover_timeout_s
        )
        super().__init__(
            uvicorn.Config(
                create_app(config, self.link, metrics),
                http=BoundedHttpProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=config.access_log,
                proxy_headers=config.access_log,  # of use for its lines only
                server_header=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_CLOSING_S,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to connect to the tokenizer service, and serve."""
        await self.link.start()
        await super().startup(sockets)

    async def main_loop(self) -> None:
        """Until a signal comes. uvicorn's own loop looks for one ten times a second, also while nothing else
        is to be done."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._signalled.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        super().handle_exit(sig, frame)
        self._signalled.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, end the requests, close everything."""
        for server in self.servers:
            server.close()
        await self.link.close(_GRACE_S)
        state = self.server_state
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=_LAST_WORDS_S)
        if state.tasks:  # clients that do not read: their responses cannot be finished
            for connection in list(state.connections):
                connection.transport.abort()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on a signal, once, and then end as any other function: uvicorn would raise it again."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


def listen(host: str, port: int, reuse_port: bool = False) -> socket.socket:
    """A socket that listens on an address; with `reuse_port` others may, too, and share its connections.

    Raises:
        OSError: the address is not to be had.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
