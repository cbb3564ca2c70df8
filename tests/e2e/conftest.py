"""One stack for all tests that leave it as they found it; it is checked for that when they are done."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator

import openai
import pytest

import tokenwire
from tests.e2e.stack import Stack, has_ended, serving
from tests.patience import eventually

KEY = "a-key-for-the-tests"


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The stack. Its gateway asks for KEY and takes bodies of up to 1 MB."""
    shared_memory = set(os.listdir("/dev/shm"))
    with serving("--max-body-bytes=1MB", key=KEY) as stack:
        children = stack.children()
        assert stack.is_idle()
        yield stack
        eventually(stack.is_idle)
        assert {name: child.pid for name, child in stack.children().items()} == {
            name: child.pid for name, child in children.items()
        }, "\n".join(["a process was restarted:", *stack.lines])
        assert stack.stop(signal.SIGINT) == 0
        assert all(map(has_ended, children.values()))
        eventually(lambda: set(os.listdir("/dev/shm")) <= shared_memory)  # others may be using some
        assert not any("Traceback" in line for line in stack.lines), "\n".join(stack.lines)


@pytest.fixture
def client(stack: Stack) -> Iterator[tokenwire.Client]:
    with tokenwire.Client(stack.tokenizer, timeout=60) as client:
        yield client


@pytest.fixture
def sync_openai(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=stack.url, api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
async def async_openai(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=stack.url, api_key=KEY, max_retries=0, timeout=60) as client:
        yield client
