"""Session: many requests over one stream, as columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import grpc
import pytest
from tokenizers import Tokenizer

from tests.patience import until
from tests.services.tokenizer.client import Command, Peer, Request, open_session
from tests.services.tokenizer.conftest import TEXT, Service, saying, start_service
from tests.services.tokenizer.fake_engine import FakeEngine
from tokenwire.status import StatusError
from tokenwire.v1 import generation_pb2


@pytest.fixture
async def service(engine: FakeEngine, session_socket: str | None) -> AsyncIterator[Service]:
    """The service, connected to the engine."""
    async for service in start_service(engine, session_socket=session_socket):
        yield service


@pytest.fixture
async def peer(service: Service) -> Peer:
    return await open_session(service)


async def test_all_requests_of_a_step_come_in_one_message(
    peer: Peer, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    for slot in range(32):
        await peer.submit(slot, Request(text="Hello"))
    ends = await peer.finish(32)

    num_tokens = len(tokenizer.encode(TEXT).ids) + 1
    for slot in range(32):
        assert peer.text(slot) == TEXT
        assert peer.num_tokens(slot) == ends[slot].usage.completion_tokens == num_tokens
        assert ends[slot].reason == generation_pb2.FINISH_REASON_STOP
    assert max(Counter(slot for m in peer.messages for slot in {*m.slots}).values()) <= len(peer.messages)
    assert all(len(set(message.slots)) == len(message.slots) for message in peer.messages)
    assert max(len(message.slots) for message in peer.messages) > 16
    assert engine.acknowledged > 0


async def test_steps_increase(peer: Peer) -> None:
    await peer.submit(0, Request(text="Hello"))
    await peer.finish(1)

    steps = [message.step for message in peer.messages]
    assert steps == sorted(set(steps))
    assert steps[0] > 0


async def test_requests_differ_in_what_they_want(
    peer: Peer, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    await peer.submit(3, Request(text="Hello", stop_strings=["sunny"]))
    await peer.submit(900, Request(text="Hello", return_token_ids=True))
    await peer.submit(5, Request(text="Hello", stop={"max_tokens": 3}))
    ends = await peer.finish(3)

    assert peer.text(3) == TEXT[: TEXT.index("sunny")]
    assert ends[3].stop_string == "sunny"
    details = [detail.response for m in peer.messages for detail in m.details if detail.slot == 900]
    assert "".join(response.text_delta for response in details) == TEXT
    assert [t for response in details for t in response.token_ids] == tokenizer.encode(
        TEXT + "<|im_end|>"
    ).ids
    assert ends[5].reason == generation_pb2.FINISH_REASON_LENGTH
    assert peer.text(5) == tokenizer.decode(tokenizer.encode(TEXT).ids[:3])


async def test_a_refused_request_ends_with_its_error_and_the_others_go_on(peer: Peer) -> None:
    await peer.submit(0, Request(text="Hello"))
    await peer.submit(1, Request(text="Hello", stop_strings=[""]))
    await peer.submit(2, Request(text="Hello", model="gpt-5"))
    ends = await peer.finish(3)

    assert peer.text(0) == TEXT
    assert StatusError.from_proto(ends[1].error).field == "stop_strings[0]"
    assert StatusError.from_proto(ends[2].error).code is grpc.StatusCode.NOT_FOUND


async def test_a_slot_is_free_again_after_its_finish_event(peer: Peer) -> None:
    for _ in range(3):
        await peer.submit(7, Request(text="Hello"))
        await peer.finish(1)

    assert peer.text(7) == TEXT * 3


async def test_a_cancelled_request_ends_here_and_at_the_engine(
    peer: Peer, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    engine.reply = saying(tokenizer, TEXT * 200)
    await peer.submit(0, Request(text="Hello"))
    await peer.read()
    await peer.cancel(0)
    await peer.cancel(0)
    ends = await peer.finish(1)

    assert ends[0].reason == generation_pb2.FINISH_REASON_CANCELLED
    assert ends[0].usage.completion_tokens > 0
    await until(lambda: not engine.live)

    engine.reply = saying(tokenizer, "after")
    await peer.submit(0, Request(text="Hello"))
    assert (await peer.finish(1))[0].reason == generation_pb2.FINISH_REASON_STOP
    assert peer.text(0).endswith("after")


async def test_a_request_cancelled_while_its_prompt_is_encoded_never_reaches_the_engine(
    engine: FakeEngine, session_socket: str | None
) -> None:
    engine.info.max_model_len = 1 << 20
    async for service in start_service(engine, session_socket=session_socket):
        peer = await open_session(service)
        await peer.submit(0, Request(text="Hello " * 20_000))
        await peer.cancel(0)
        ends = await peer.finish(1)

    assert ends[0].reason == generation_pb2.FINISH_REASON_CANCELLED
    assert engine.requests == []


@pytest.mark.parametrize("how", ["half-closes", "hangs up"])
async def test_when_the_peer_leaves_its_requests_are_cancelled(
    peer: Peer, engine: FakeEngine, tokenizer: Tokenizer, how: str
) -> None:
    engine.reply = saying(tokenizer, TEXT * 200)
    for slot in range(4):
        await peer.submit(slot, Request(text="Hello"))
    # A call that is cancelled loses what the other side has not read yet.
    await until(lambda: len(engine.requests) == 4)
    if how == "hangs up":
        peer.call.cancel()
    else:
        await peer.call.done_writing()

    await until(lambda: len(engine.cancelled) == 4 and not engine.live)


async def test_a_peer_that_reads_slowly_gets_several_steps_in_one_message(
    peer: Peer, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    text = TEXT * 40
    engine.reply = saying(tokenizer, text)
    engine.tokens_per_step = 8
    for slot in range(64):
        await peer.submit(slot, Request(text="Hello"))
    await until(lambda: len(engine.requests) == 64 and not engine.live)
    await peer.finish(64)

    assert all(peer.text(slot) == text for slot in range(64))


async def test_a_peer_that_does_not_read_at_all_loses_its_session(
    engine: FakeEngine, tokenizer: Tokenizer, session_socket: str | None
) -> None:
    engine.reply = saying(tokenizer, TEXT * 60)
    engine.tokens_per_step = 16
    # Little is buffered on the way, so that the service soon notices that nobody reads.
    narrow = {"http2.bdp_probe": 0, "http2.lookahead_bytes": 65_535}
    async for service in start_service(engine, max_backlog_bytes=256 << 10, session_socket=session_socket):
        peer = Peer(service, **narrow)
        await peer.open()
        for slot in range(128):
            await peer.submit(slot, Request(text="Hello"))
        await until(lambda: len(engine.cancelled) > 100 and not engine.live)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await peer.drain()

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("commands", "code", "field"),
    [
        ([Command(cancel={"slot": 0})], "INVALID_ARGUMENT", "open"),
        ([Command(open={"session_id": "x" * 257})], "INVALID_ARGUMENT", "open.session_id"),
        ([Command(open={"session_id": "a", "resume_after_step": 3})], "NOT_FOUND", None),
        ([Command(open={"session_id": "a"}), Command(open={"session_id": "a"})], "INVALID_ARGUMENT", "open"),
        ([Command(open={"session_id": "a"}), Command()], "INVALID_ARGUMENT", "command"),
    ],
)
async def test_a_peer_that_breaks_the_protocol_is_told_so(
    service: Service, commands: list[Command], code: str, field: str | None
) -> None:
    peer = Peer(service)
    for command in commands:
        await peer.call.write(command)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await peer.drain()

    error = StatusError.from_call(caught.value)
    assert (error.code.name, error.field) == (code, field)


async def test_a_slot_cannot_be_taken_twice(peer: Peer, engine: FakeEngine) -> None:
    engine.flowing.clear()
    await peer.submit(0, Request(text="Hello"))
    await peer.submit(0, Request(text="Hello"))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await peer.call.read()
    assert StatusError.from_call(caught.value).field == "submit.slot"
