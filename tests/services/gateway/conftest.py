"""A gateway on a free port in front of a tokenizer service whose answers the test chooses.

Both serve all tests of a module, on the module's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest_asyncio

from tests.patience import PATIENCE_S, until
from tests.ports import address
from tests.services.gateway.fake_tokenizer import FakeTokenizer
from tokenwire_services.gateway.config import GatewayConfig
from tokenwire_services.gateway.server import GatewayServer, listen


@contextlib.asynccontextmanager
async def running_gateway(
    tokenizer_port: int, session_socket: str | None = None, *, wait_open: bool = True, **options: Any
) -> AsyncIterator[str]:
    """A gateway on this event loop; its URL."""
    config = GatewayConfig(port=0, tokenizer=address(tokenizer_port, session_socket), **options)
    listener = listen(config.host, config.port)
    server = GatewayServer(config)
    serving = asyncio.create_task(server.serve([listener]))
    try:
        if wait_open:
            await asyncio.wait_for(server.link.wait_open(), PATIENCE_S)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.handle_exit(signal.SIGTERM, None)
        await serving


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[FakeTokenizer]:
    """The tokenizer service of a module's tests."""
    async with FakeTokenizer().serving() as service:
        yield service


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(service: FakeTokenizer) -> AsyncIterator[str]:
    """The URL of the gateway of a module's tests."""
    async with running_gateway(service.port) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="module")
async def tokenizer(service: FakeTokenizer) -> FakeTokenizer:
    """The tokenizer service, as if nothing had been asked of it yet."""
    await until(lambda: service.live == {})
    await service.forget()
    return service


@pytest_asyncio.fixture(loop_scope="module")
async def http(gateway: str, tokenizer: FakeTokenizer) -> AsyncIterator[httpx.AsyncClient]:
    """Plain HTTP to the gateway."""
    async with httpx.AsyncClient(base_url=gateway, timeout=PATIENCE_S) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def client(gateway: str, tokenizer: FakeTokenizer) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client, pointed at the gateway."""
    async with openai.AsyncOpenAI(base_url=f"{gateway}/v1", api_key="any", max_retries=0) as client:
        yield client
