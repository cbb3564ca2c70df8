"""Sessions: all of a peer's requests over one stream."""

from __future__ import annotations

import grpc
import pytest

from tests.engine.hash_runner import HashRunner, continuation, model_info
from tests.engine.running import Engine, StartEngine, session_channel
from tests.engine.server.peers import Peer, at_port_and_socket
from tokenwire.status import StatusError
from tokenwire.v1 import generation_pb2
from tokenwire.v1.engine_pb2 import SessionRequest, SessionResponse
from tokenwire_engine.server import outbox

pytestmark = at_port_and_socket


@pytest.fixture
async def peer(engine: Engine) -> Peer:
    peer = Peer(engine.session_stub())
    await peer.open()
    return peer


async def test_the_first_message_answers_open(engine: Engine) -> None:
    first = await Peer(engine.session_stub()).open()
    assert first.HasField("opened")
    assert not first.opened.resumed
    assert (await engine.load()).sessions == 1


async def test_a_step_is_one_message_for_all_requests(engine: Engine, peer: Peer) -> None:
    engine.runner.hold()
    for slot in range(3):
        await peer.submit(slot, [slot + 1], max_tokens=6)
    await peer.until_taken_in()
    engine.runner.resume()
    await peer.read_until_finished(0, 1, 2)
    assert [peer.tokens[slot] for slot in range(3)] == [continuation([slot + 1], 6) for slot in range(3)]
    # Opened, refused, and the steps; the first two may have been planned with the first request alone.
    assert len(peer.messages) <= 2 + 8


async def test_a_finish_event_carries_reason_and_usage_and_frees_the_slot(peer: Peer) -> None:
    for _ in range(2):
        peer.finished.clear()
        await peer.submit(4, [1, 2], max_tokens=3)
        await peer.read_until_finished(4)
        event = peer.finished[4]
        assert event.reason == generation_pb2.FINISH_REASON_LENGTH
        assert (event.usage.prompt_tokens, event.usage.completion_tokens) == (2, 3)
    assert peer.tokens[4] == continuation([1, 2], 3) * 2


async def test_a_refused_request_ends_with_its_error_and_the_session_goes_on(peer: Peer) -> None:
    await peer.submit(1, [])
    await peer.submit(2, [5])
    await peer.read_until_finished(1, 2)
    error = StatusError.from_proto(peer.finished[1].error)
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "prompt_token_ids")
    assert peer.finished[1].reason == generation_pb2.FINISH_REASON_ERROR
    assert peer.finished[1].HasField("usage")
    assert peer.tokens[2] == continuation([5], 8)


async def test_a_slot_in_use_is_refused_and_its_request_goes_on(engine: Engine, peer: Peer) -> None:
    engine.runner.hold()
    await peer.submit(1, [5])
    await peer.submit(1, [6])
    await peer.read_until_finished(1)
    refused = peer.finished.pop(1)
    assert StatusError.from_proto(refused.error).code is grpc.StatusCode.ALREADY_EXISTS
    assert not refused.HasField("usage")
    engine.runner.resume()
    await peer.read_until_finished(1)
    assert peer.tokens[1] == continuation([5], 8)


async def test_cancel_ends_one_request_and_leaves_the_others(engine: Engine, peer: Peer) -> None:
    engine.runner.hold()
    await peer.submit(1, [5], max_tokens=None)
    await peer.submit(2, [6], max_tokens=None)
    engine.runner.allow(1)
    await peer.read()
    await peer.cancel(1)
    await peer.until_taken_in()
    engine.runner.resume()
    await peer.read_until_finished(1, 2)
    assert peer.finished[1].reason == generation_pb2.FINISH_REASON_CANCELLED
    assert peer.finished[2].reason == generation_pb2.FINISH_REASON_LENGTH
    assert peer.tokens[1] == continuation([5], len(peer.tokens[1]))
    assert peer.tokens[2] == continuation([6], 255)


async def test_cancelling_a_free_slot_does_nothing(peer: Peer) -> None:
    await peer.cancel(3)
    await peer.submit(3, [5])
    await peer.read_until_finished(3)
    assert peer.finished[3].reason == generation_pb2.FINISH_REASON_LENGTH


async def test_a_failed_step_ends_its_requests_and_the_session_goes_on(engine: Engine, peer: Peer) -> None:
    engine.runner.fail_next = RuntimeError("a kernel failed")
    await peer.submit(1, [5])
    await peer.read_until_finished(1)
    assert StatusError.from_proto(peer.finished[1].error).code is grpc.StatusCode.INTERNAL
    await peer.submit(2, [5])
    await peer.read_until_finished(2)
    assert peer.tokens[2] == continuation([5], 8)


async def test_a_broken_stream_cancels_its_requests_within_a_step(engine: Engine, peer: Peer) -> None:
    engine.runner.hold()
    for slot in range(4):
        await peer.submit(slot, [slot], max_tokens=None)
    engine.runner.allow(1)
    await peer.read()
    peer.call.cancel()
    await engine.until_nobody_listens()
    engine.runner.resume()
    await engine.until_idle()
    assert engine.runner.steps <= 3  # the one that ran, and the one that had been launched behind it
    assert (await engine.load()).sessions == 0


async def test_requests_run_to_their_end_after_the_peer_closed_its_side(peer: Peer) -> None:
    await peer.submit(1, [5])
    await peer.call.done_writing()
    await peer.read_until_finished(1)
    assert peer.tokens[1] == continuation([5], 8)
    assert await peer.call.read() is grpc.aio.EOF


async def test_steps_are_put_together_for_a_peer_that_does_not_read(start_engine: StartEngine) -> None:
    info = model_info(num_blocks=4096, max_model_len=16_384, max_step_tokens=128)
    engine = await start_engine(HashRunner(info), max_running=64)
    peer = Peer(engine.session_stub())
    await peer.open()
    for slot in range(64):
        await peer.submit(slot, [slot], max_tokens=1000)
    await engine.until(lambda load: load.finished_requests == 64)
    await peer.read_until_finished(*range(64))
    assert len(peer.messages) < (await engine.load()).steps
    for slot in range(64):
        assert peer.tokens[slot] == continuation([slot], 1000)


async def test_a_long_backlog_is_sent_in_pieces_with_the_ends_last(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_MESSAGE_TOKENS", 3)
    peer = Peer(engine.session_stub())
    await peer.open()
    engine.runner.hold()
    for slot in range(8):
        await peer.submit(slot, [slot], max_tokens=4)
    await peer.until_taken_in()
    engine.runner.resume()
    await peer.read_until_finished(*range(8))
    assert max(len(message.slots) for message in peer.messages) == 3
    for slot in range(8):
        assert peer.tokens[slot] == continuation([slot], 4)


async def test_acknowledged_steps_must_have_been_sent(peer: Peer) -> None:
    await peer.send(ack=SessionRequest.Ack(step=peer.messages[-1].step))
    await peer.submit(1, [5])
    await peer.read_until_finished(1)
    await peer.send(ack=SessionRequest.Ack(step=1_000_000))
    assert await failure(peer) == (grpc.StatusCode.INVALID_ARGUMENT, "ack.step")


@pytest.mark.parametrize(
    ("first", "code", "field"),
    [
        ({"cancel": SessionRequest.Cancel(slot=1)}, grpc.StatusCode.INVALID_ARGUMENT, "open"),
        ({"open": SessionRequest.Open()}, grpc.StatusCode.INVALID_ARGUMENT, "open.session_id"),
        (
            {"open": SessionRequest.Open(session_id="x" * 257)},
            grpc.StatusCode.INVALID_ARGUMENT,
            "open.session_id",
        ),
        (
            {"open": SessionRequest.Open(session_id="a", resume_after_step=0)},
            grpc.StatusCode.NOT_FOUND,
            None,
        ),
    ],
)
async def test_a_session_must_be_opened_properly(
    engine: Engine, first: dict[str, object], code: grpc.StatusCode, field: str | None
) -> None:
    peer = Peer(engine.session_stub())
    await peer.send(**first)
    assert await failure(peer) == (code, field)


@pytest.mark.parametrize(
    ("command", "field"), [({"open": SessionRequest.Open(session_id="b")}, "open"), ({}, "command")]
)
async def test_later_messages_that_make_no_sense_end_the_session(
    peer: Peer, command: dict[str, object], field: str
) -> None:
    await peer.send(**command)
    assert await failure(peer) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_a_message_that_cannot_be_decoded_ends_the_session_and_its_requests(engine: Engine) -> None:
    def as_sent(message: SessionRequest | bytes) -> bytes:
        return message if isinstance(message, bytes) else message.SerializeToString()

    engine.runner.hold()
    async with session_channel(engine.session_target) as channel:
        method = channel.stream_stream("/tokenwire.v1.Engine/Session", as_sent, SessionResponse.FromString)
        peer = Peer(engine.session_stub())
        peer.call = method()
        await peer.open()
        await peer.submit(0, [1, 2, 3])
        await peer.call.write(b"\xff\xff")
        assert await failure(peer) == (grpc.StatusCode.INVALID_ARGUMENT, "request")


async def test_a_session_id_in_use_is_refused(engine: Engine) -> None:
    await Peer(engine.session_stub()).open("mine")
    second = Peer(engine.session_stub())
    await second.send(open=SessionRequest.Open(session_id="mine"))
    assert (await failure(second))[0] is grpc.StatusCode.ALREADY_EXISTS


async def failure(peer: Peer) -> tuple[grpc.StatusCode, str | None]:
    """Code and field of what the stream ends with."""
    error = await peer.error()
    return error.code, error.field
