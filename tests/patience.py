"""How long tests wait for what should happen at once: long enough for a busy machine."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

PATIENCE_S = 60.0


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    """Return once a condition holds that another process, thread or task brings about.

    Raises:
        TimeoutError: it does not within `PATIENCE_S`.
    """
    async with asyncio.timeout(PATIENCE_S):
        while True:
            holds = condition()
            if await holds if inspect.isawaitable(holds) else holds:
                return
            await asyncio.sleep(0.005)


def eventually(condition: Callable[[], object]) -> None:
    """What `until` is, for tests without an event loop.

    Raises:
        TimeoutError: the condition does not hold within `PATIENCE_S`.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)
