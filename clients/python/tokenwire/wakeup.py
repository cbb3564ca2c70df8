"""One sleeper that may be woken from many places."""

from __future__ import annotations

import asyncio


class Wakeup:
    """Waking it before it sleeps is not lost."""

    __slots__ = ("_future", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._future: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake the sleeper, or spare it its next sleep."""
        self._is_set = True
        future = self._future
        if future is not None:
            self._future = None
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        """Sleep until `set` is called, or not at all when it was called since the last wait."""
        if not self._is_set:
            self._future = asyncio.get_running_loop().create_future()
            await self._future
        self._is_set = False
