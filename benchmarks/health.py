"""When a gateway that was just started serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def wait_until_served(port: int, timeout_s: float, check: Callable[[], None] = lambda: None) -> None:
    """Return once the health of the gateway at a port is good; `check` raises what waiting ends with earlier.

    Raises:
        TimeoutError: it was not good in time.
    """
    async with asyncio.timeout(timeout_s):
        while True:
            check()
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                status = await reader.readline()
                writer.close()
                if b" 200 " in status:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.1)
