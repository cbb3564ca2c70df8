"""What a request takes is free as soon as it has ended, without the garbage collector: that looks at what has
lived for a while so rarely that the process would grow meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.garbage import uncollected
from tests.services.tokenizer.client import Request, chat, open_session
from tests.services.tokenizer.conftest import Service, start_service
from tests.services.tokenizer.fake_engine import FakeEngine
from tokenwire.v1 import generation_pb2


@pytest.fixture
async def service(engine: FakeEngine, session_socket: str | None) -> AsyncIterator[Service]:
    """The service, connected to the engine."""
    async for service in start_service(engine, session_socket=session_socket):
        yield service


REQUESTS = {
    "text": Request(text="Hello"),
    "log-probabilities": Request(text="Hello", logprobs=generation_pb2.LogprobOptions(num_logprobs=1)),
    "a stop string": Request(text="Hello", stop_strings=["France"]),
    "token IDs": Request(text="Hello", return_token_ids=True),
    "a chat": chat(),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
async def test_a_request_leaves_no_garbage(service: Service, request_: Request) -> None:
    peer = await open_session(service)
    with uncollected("tokenwire_services") as garbage:
        for slot in range(3):
            await peer.submit(slot, request_)
        await peer.finish(3)
    assert garbage == {}
