"""Gateway and tokenizer service, each the real one, over a connection that breaks: no stream notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import openai
import pytest
from tokenizers import Tokenizer

from tests.cut_proxy import CutProxy, cut_proxy_of_sessions
from tests.patience import until
from tests.services.gateway.conftest import running_gateway
from tests.services.tokenizer.client import Peer, Request, open_session
from tests.services.tokenizer.conftest import TEXT, Service, saying, start_service
from tests.services.tokenizer.conftest import engine as engine  # a fixture
from tests.services.tokenizer.conftest import files as files
from tests.services.tokenizer.conftest import session_socket as session_socket
from tests.services.tokenizer.conftest import tokenizer as tokenizer
from tests.services.tokenizer.fake_engine import FakeEngine
from tokenwire.status import StatusError

MODEL = "tiny"


@dataclass
class Chain:
    """A gateway's client, and the connection behind the gateway."""

    client: openai.AsyncOpenAI
    proxy: CutProxy


@pytest.fixture
async def chain(engine: FakeEngine, session_socket: str | None) -> AsyncIterator[Chain]:
    """Gateway → proxy → tokenizer service → scripted engine."""
    async for service in start_service(engine, session_socket=session_socket):
        async with (
            cut_proxy_of_sessions(service) as proxy,
            running_gateway(proxy.port, proxy.session_socket) as url,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
        ):
            yield Chain(client, proxy)


async def stream(client: openai.AsyncOpenAI) -> str:
    chunks = await client.completions.create(model=MODEL, prompt="Hello", max_tokens=400, stream=True)
    return "".join([choice.text async for chunk in chunks for choice in chunk.choices])


async def test_cuts_during_many_streams_change_nothing(
    chain: Chain, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    text = TEXT * 6
    engine.reply = saying(tokenizer, text)
    engine.info.max_model_len = 4096
    cutting = asyncio.create_task(chain.proxy.cut_at_random(15))
    texts: list[str] = []
    while not cutting.done():
        texts += await asyncio.gather(*(stream(chain.client) for _ in range(24)))
    await cutting
    expected = tokenizer.decode(tokenizer.encode(text).ids[:400])
    assert set(texts) == {expected}
    assert chain.proxy.num_cut == 15
    assert not engine.live


async def test_a_request_that_comes_during_a_brief_outage_waits(chain: Chain) -> None:
    await stream(chain.client)
    await chain.proxy.cut()
    assert await stream(chain.client) == TEXT


async def open_with_grace(service: Service) -> Peer:
    peer = Peer(service)
    opened = await peer.open(grace_period_ms=60_000)
    assert (opened.grace_period_ms, opened.resumed) == (2000, False)
    return peer


async def test_a_session_that_nobody_resumes_is_forgotten_with_its_requests(
    engine: FakeEngine, tokenizer: Tokenizer, session_socket: str | None
) -> None:
    engine.reply = saying(tokenizer, TEXT * 500)
    engine.info.max_model_len = 1 << 20
    async for service in start_service(engine, session_grace_s=0.1, session_socket=session_socket):
        peer = await open_session(service, grace_period_ms=60_000)
        await peer.submit(0, Request(text="Hello"))
        await peer.read()
        peer.call.cancel()
        await until(lambda: engine.cancelled and not engine.live)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Peer(service).open(resume_after_step=0)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_resumed_stream_goes_on_behind_the_step_that_was_received(
    engine: FakeEngine, session_socket: str | None
) -> None:
    async for service in start_service(engine, session_grace_s=2.0, session_socket=session_socket):
        peer = await open_with_grace(service)
        await peer.submit(0, Request(text="Hello"))
        first = await peer.read()
        peer.call.cancel()
        again = Peer(service)
        opened = await again.open(resume_after_step=first.step, grace_period_ms=60_000)
        assert (opened.resumed, opened.commands_received) == (True, 1)
        await again.finish(1)
        text = first.text_deltas[0] + again.text(0)
        assert text == TEXT


async def test_a_newer_stream_takes_over(engine: FakeEngine, session_socket: str | None) -> None:
    async for service in start_service(engine, session_grace_s=2.0, session_socket=session_socket):
        peer = await open_with_grace(service)
        assert (await Peer(service).open(resume_after_step=0)).resumed
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await peer.call.read()
        assert caught.value.code() is grpc.StatusCode.ABORTED
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await Peer(service).open(resume_after_step=99)
        assert StatusError.from_call(refused.value).field == "open.resume_after_step"
