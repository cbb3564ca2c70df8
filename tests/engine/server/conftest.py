"""A real gRPC server on a free port, over the hash runner."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.engine.running import Engine, StartEngine, starting_engines


@pytest.fixture
async def start_engine() -> AsyncIterator[StartEngine]:
    """Starts engines that end with the test, and asserts that they leave no block behind."""
    async with starting_engines(max_running=8) as start:
        yield start


@pytest.fixture
async def engine(start_engine: StartEngine) -> Engine:
    return await start_engine()
