"""The session to the tokenizer service: opened when it can be, broken with a clear error, opened again."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import httpx
import openai
import pytest

from tests.patience import PATIENCE_S, until
from tests.services.gateway.conftest import running_gateway
from tests.services.gateway.fake_tokenizer import MODEL, Answer, FakeTokenizer
from tokenwire_services.gateway import session_link, tokenizer_link
from tokenwire_services.gateway.session import MAX_MOVES

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


async def until_healthy(url: str) -> None:
    """Wait until the gateway has a session again."""
    async with httpx.AsyncClient(base_url=url) as http:

        async def is_healthy() -> bool:
            return (await http.get("/health")).status_code == 200

        await until(is_healthy)


async def test_all_requests_share_one_session(http: httpx.AsyncClient, tokenizer: FakeTokenizer) -> None:
    await asyncio.gather(*(http.post(CHAT, json=BODY) for _ in range(8)))
    assert tokenizer.sessions == 1


async def test_what_was_received_is_acknowledged(http: httpx.AsyncClient, tokenizer: FakeTokenizer) -> None:
    tokenizer.answer = lambda request: Answer(["x"] * 100)
    await http.post(CHAT, json=BODY)
    await until(lambda: tokenizer.acked_step >= 64)


async def test_a_gateway_that_stops_does_not_complain_that_its_session_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokenizer = FakeTokenizer()
    async with tokenizer.serving():
        async with running_gateway(tokenizer.port) as url, httpx.AsyncClient(base_url=url) as http:
            assert (await http.post(CHAT, json=BODY)).status_code == 200
        await until(lambda: not tokenizer.live)
    assert [record for record in caplog.records if record.name == session_link.__name__] == []


async def test_without_a_tokenizer_service_requests_are_refused_until_it_comes() -> None:
    tokenizer = FakeTokenizer()
    async with tokenizer.serving():
        pass  # its port is known now, and nobody listens on it
    async with (
        running_gateway(tokenizer.port, wait_open=False) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        for response in (
            await http.post(CHAT, json=BODY),
            await http.post(CHAT, json={**BODY, "stream": True}),
            await http.get("/v1/models"),
            await http.get("/health"),
        ):
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) >= 1
            assert f"127.0.0.1:{tokenizer.port}" in response.json()["error"]["message"]
        async with tokenizer.serving():
            await until(lambda: tokenizer.sessions == 1)
            await until_healthy(url)
            assert (await http.post(CHAT, json=BODY)).status_code == 200


async def test_streams_go_on_when_the_tokenizer_service_dies_and_another_comes() -> None:
    words = [f" {number}" for number in range(40)]
    tokenizer = FakeTokenizer(step_s=0.005)
    tokenizer.answer = lambda request: Answer(words)
    async with contextlib.AsyncExitStack() as stack:
        async with tokenizer.serving():
            url = await stack.enter_async_context(running_gateway(tokenizer.port))
            client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
            stream = await client.chat.completions.create(stream=True, **BODY)
            text = [(await anext(stream)).choices[0].delta.content for _ in range(10)]
            tokenizer.step_s = 10.0  # the rest is the next process's, however slow this one's end is
            whole = asyncio.create_task(client.chat.completions.create(**BODY))
            await until(lambda: len(tokenizer.live) == 2)
        tokenizer.step_s = 0.005
        async with tokenizer.serving():
            text += [chunk.choices[0].delta.content async for chunk in stream]
            assert "".join(part or "" for part in text) == "".join(words)
            answer = await whole
            assert answer.choices[0].message.content == "".join(words)

    first, second, *again = tokenizer.requests
    assert {request.resumption.request_id for request in again} == {first.request_id, second.request_id}
    assert {request.sampling.seed for request in again} == {first.sampling.seed, second.sampling.seed}
    assert len({request.request_id for request in tokenizer.requests}) == 4


async def test_requests_fail_when_no_tokenizer_service_comes_in_time() -> None:
    tokenizer = FakeTokenizer(step_s=0.005)
    tokenizer.answer = lambda request: Answer(["x"] if request.stop.max_tokens == 9 else [], endless=True)
    async with contextlib.AsyncExitStack() as stack:
        async with tokenizer.serving():
            url = await stack.enter_async_context(running_gateway(tokenizer.port, failover_timeout_s=0.5))
            client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
            stream = await client.chat.completions.create(stream=True, max_tokens=9, **BODY)
            await anext(stream)
            silent = asyncio.create_task(client.chat.completions.create(**BODY))
            await until(lambda: len(tokenizer.live) == 2)
        with pytest.raises(openai.APIError, match="broke"):
            [chunk async for chunk in stream]
        with pytest.raises(openai.InternalServerError) as caught:
            await silent
        assert caught.value.status_code == 503

        tokenizer.answer = lambda request: Answer(["back"])
        async with tokenizer.serving():
            await until_healthy(url)
            answer = await client.chat.completions.create(**BODY)
            assert answer.choices[0].message.content == "back"


async def test_a_request_that_loses_every_tokenizer_service_is_given_up() -> None:
    tokenizer = FakeTokenizer()
    tokenizer.answer = lambda request: Answer(endless=True)
    async with contextlib.AsyncExitStack() as stack:
        async with tokenizer.serving():
            url = await stack.enter_async_context(running_gateway(tokenizer.port))
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=PATIENCE_S))
            deadly = asyncio.create_task(http.post(CHAT, json=BODY))
            await until(lambda: len(tokenizer.requests) == 1)
        for num_moves in range(1, MAX_MOVES + 1):
            async with tokenizer.serving():
                await until(lambda: len(tokenizer.requests) == 1 + num_moves)  # noqa: B023 (called here)
        async with tokenizer.serving():
            response = await deadly
            assert response.status_code == 503
            assert "is not tried again" in response.json()["error"]["message"]
            await until(
                lambda: tokenizer.live == {}
            )  # the service before may still be about to notice its end


async def test_new_requests_return_to_the_preferred_process_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_link, "SETTLED_S", 0.1)
    monkeypatch.setattr(tokenizer_link, "LOOK_S", 0.02)
    monkeypatch.setattr(session_link, "UNHURRIED_LOOK_S", 0.02)
    home, other = FakeTokenizer(), FakeTokenizer()
    at_home, elsewhere = tmp_path / "home", tmp_path / "other"
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(other.serving(elsewhere))
        async with home.serving(at_home):
            sockets = f"{at_home},{elsewhere}"
            url = await stack.enter_async_context(running_gateway(other.port, sockets))
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=PATIENCE_S))
            assert (await http.post(CHAT, json=BODY)).status_code == 200
            assert (len(home.requests), len(other.requests)) == (1, 0)
        other.answer = lambda request: Answer(["x"], endless=request.stop.max_tokens == 9)
        other.step_s = 0.005
        long = asyncio.create_task(http.post(CHAT, json={**BODY, "max_tokens": 9}))
        await until(lambda: len(other.live) == 1)
        async with home.serving(at_home):

            async def is_home() -> bool:
                assert (await http.post(CHAT, json=BODY)).status_code == 200
                return len(home.requests) == 2

            await until(is_home)
            (live,) = other.live.values()
            live.answer = Answer(["x"] * (live.sent + 5))
            content = (await long).json()["choices"][0]["message"]["content"]
            assert content == "x" * len(live.answer.deltas)
            await until(lambda: other.open_sessions == 0)
