"""A TCP proxy whose connections a test can cut, as a bad network does."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator


class CutProxy:
    """Forwards to a port. Everything that is on its way when a connection is cut is lost."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
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
            there = await asyncio.open_connection("127.0.0.1", self.target_port)
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
async def cut_proxy(target_port: int) -> AsyncIterator[CutProxy]:
    """A proxy on a free port in front of `target_port`."""
    proxy = CutProxy(target_port)
    server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    async with server:
        yield proxy
        await proxy.cut()
