"""A real gRPC server on a free port, over the hash runner."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.engine.running import Engine, StartEngine, starting_engines


@pytest.fixture
def session_socket(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Where sessions are served beside the port: nowhere, unless the test is parametrized with "unix"."""
    return str(tmp_path / "sessions") if getattr(request, "param", "tcp") == "unix" else None


@pytest.fixture
async def start_engine(session_socket: str | None) -> AsyncIterator[StartEngine]:
    """Starts engines that end with the test, and asserts that they leave no block behind."""
    async with starting_engines(max_running=8, session_socket=session_socket) as start:
        yield start


@pytest.fixture
async def engine(start_engine: StartEngine) -> Engine:
    return await start_engine()
