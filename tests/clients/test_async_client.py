"""The asynchronous client, at a service whose answers the test chooses."""

import asyncio

import pytest

import tokenwire
from tests.patience import PATIENCE_S
from tokenwire.status import invalid_argument

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
async def client(fake):
    async with tokenwire.AsyncClient(fake.target, timeout=PATIENCE_S) as client:
        yield client


async def test_generate_and_chat_return_the_whole_answer(answer, client):
    assert (await client.generate("Say hello")).text == "Hello, world"
    assert answer.request.text == "Say hello"
    assert (await client.chat(HELLO, max_tokens=4)).finish_reason == "stop"
    assert answer.request.chat.messages[0].content == "Hello"


async def test_a_stream_yields_each_delta_and_knows_the_whole(answer, client):
    async with client.stream_chat(HELLO) as stream:
        assert [delta.text async for delta in stream] == ["Hello,", " world"]
        assert (await stream.result()).usage == tokenwire.Usage(3, 3, 1)


async def test_the_other_calls_answer(fake, client):
    assert await client.tokenize("Hello") == [5, 6, 7]
    assert await client.detokenize([5, 6]) == "five six"
    assert await client.render_chat(HELLO) == "<user>Hello"
    assert [card.name for card in await client.models()] == ["demo"]


async def test_closing_a_stream_cancels_the_call(answer, client):
    answer.hold = True
    async with client.stream_generate("x") as stream:
        assert (await anext(stream)).text == "Hello,"

    assert await asyncio.to_thread(answer.cancelled.wait, 10)
    assert [delta async for delta in stream] == []
    with pytest.raises(tokenwire.CancelledError):
        await stream.result()


async def test_cancelling_the_task_cancels_the_call(answer, client):
    answer.hold = True
    task = asyncio.create_task(client.generate("x"))
    assert await asyncio.to_thread(answer.arrived.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await asyncio.to_thread(answer.cancelled.wait, 10)


async def test_errors_are_the_same_as_the_synchronous_clients(fake, client):
    fake.error = invalid_argument("chat.messages", "is empty; expected at least one")
    with pytest.raises(tokenwire.InvalidRequestError) as from_stream:
        await client.chat([])
    with pytest.raises(tokenwire.InvalidRequestError) as from_call:
        await client.render_chat([])

    assert from_stream.value.field == from_call.value.field == "chat.messages"


async def test_a_deadline_ends_the_call(answer, client):
    answer.hold = True
    with pytest.raises(tokenwire.DeadlineExceededError):
        await client.generate("x", timeout=0.2)
