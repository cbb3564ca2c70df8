"""A gateway on a free port in front of a tokenizer service whose answers the test chooses."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import openai
import pytest

from tests.services.gateway.fake_tokenizer import FakeTokenizer
from tokenwire_services.gateway.config import GatewayConfig
from tokenwire_services.gateway.server import GatewayServer, listen


@contextlib.asynccontextmanager
async def running_gateway(tokenizer_port: int, **options: Any) -> AsyncIterator[str]:
    """A gateway on this event loop; its URL."""
    config = GatewayConfig(port=0, tokenizer=f"127.0.0.1:{tokenizer_port}", **options)
    listener = listen(config.host, config.port)
    server = GatewayServer(config)
    serving = asyncio.create_task(server.serve([listener]))
    try:
        with contextlib.suppress(TimeoutError):  # a test may leave the tokenizer out
            await asyncio.wait_for(server.link.wait_open(), 0.3 if tokenizer_port == 1 else 10)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


@pytest.fixture
async def tokenizer() -> AsyncIterator[FakeTokenizer]:
    """The tokenizer service."""
    async with FakeTokenizer().serving() as tokenizer:
        yield tokenizer


@pytest.fixture
async def gateway(tokenizer: FakeTokenizer) -> AsyncIterator[str]:
    """The gateway's URL."""
    async with running_gateway(tokenizer.port) as url:
        yield url


@pytest.fixture
async def http(gateway: str) -> AsyncIterator[httpx.AsyncClient]:
    """Plain HTTP to the gateway."""
    async with httpx.AsyncClient(base_url=gateway, timeout=10) as client:
        yield client


@pytest.fixture
async def client(gateway: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client, pointed at the gateway."""
    async with openai.AsyncOpenAI(base_url=f"{gateway}/v1", api_key="any", max_retries=0) as client:
        yield client


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another task or process does."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)
