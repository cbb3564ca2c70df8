"""A TCP proxy whose connections a test can cut, as a bad network does."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Protocol


class Server(Protocol):
    """What has a port, and perhaps a Unix socket for sessions."""

    @property
    def port(self) -> int: ...
    @property
    def session_socket(self) -> str | None: ...


class CutProxy:
    """Forwards to a port, or a Unix socket. All that is on its way when a connection is cut is lost."""

    def __init__(self, target: int | str) -> None:
        self.target = target
        self.port = 0
        self.session_socket: str | None = None
        """Where it listens, if that is at a Unix socket."""
        self.num_cut = 0
        """Connections that were open when they were cut."""
        self._writers: set[asyncio.StreamWriter] = set()
        self._connected = asyncio.Event()

    async def cut(self) -> None:
        """Break every connection, both ends at once, with a reset."""
        writers, self._writers = self._writers, set()
        self._connected.clear()
        self.num_cut += len(writers) // 2
        for writer in writers:
            writer.transport.abort()

    async def cut_at_random(self, times: int, seed: int = 0) -> None:
        """Cut so many times, each at a random moment while something is connected."""
        rng = random.Random(seed)
        for _ in range(times):
            await self._connected.wait()
            await asyncio.sleep(rng.uniform(0.0, 0.06))
            await self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if isinstance(self.target, int):
                there = await asyncio.open_connection("127.0.0.1", self.target)
            else:
                there = await asyncio.open_unix_connection(self.target)
        except OSError:
            writer.close()
            return
        ours = {writer, there[1]}
        self._writers |= ours
        self._connected.set()
        await asyncio.gather(_forward(reader, there[1]), _forward(there[0], writer))
        self._writers -= ours


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 12):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


@contextlib.asynccontextmanager
async def cut_proxy(target: int | str) -> AsyncIterator[CutProxy]:
    """A proxy on a free port in front of a port, or the path of a Unix socket."""
    proxy = CutProxy(target)
    server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    async with server:
        yield proxy
        await proxy.cut()


@contextlib.asynccontextmanager
async def cut_proxy_of_sessions(server: Server) -> AsyncIterator[CutProxy]:
    """A proxy in front of a server: of its port, or, where it has one, of its Unix socket alone."""
    if server.session_socket is None:
        async with cut_proxy(server.port) as proxy:
            yield proxy
    else:
        proxy = CutProxy(server.session_socket)
        proxy.port, proxy.session_socket = server.port, f"{server.session_socket}-proxy"
        async with await asyncio.start_unix_server(proxy._serve, proxy.session_socket):
            yield proxy
            await proxy.cut()
