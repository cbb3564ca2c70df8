"""Sessions that outlive their connections: nothing lost, nothing twice, nobody else held up."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator

import grpc
import pytest

from tests.cut_proxy import CutProxy, cut_proxy
from tests.engine.hash_runner import HashRunner, continuation, model_info
from tests.engine.running import Engine, StartEngine
from tests.patience import PATIENCE_S
from tokenwire.status import StatusError
from tokenwire.v1 import engine_pb2_grpc, generation_pb2
from tokenwire.v1.engine_pb2 import GenerateRequest, SessionRequest, SessionResponse
from tokenwire_engine.scheduler.plan import StepResult
from tokenwire_engine.server import outbox, session

FinishEvent = SessionResponse.FinishEvent
GRACE_MS = 5_000
BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
"""What a call ends with when its connection broke; the second one when it was writing."""


class Peer:
    """A client that resumes: it keeps its commands until they are counted, and the last step it got."""

    def __init__(self, port: int, grace_ms: int = GRACE_MS, ack: bool = True) -> None:
        self.session_id = str(uuid.uuid4())
        self.tokens: dict[int, list[int]] = defaultdict(list)
        self.finished: dict[int, FinishEvent] = {}
        self.step = 0
        self._ack = ack
        self._grace_ms = grace_ms
        self._commands: list[SessionRequest] = []
        options = [("grpc.initial_reconnect_backoff_ms", 20), ("grpc.min_reconnect_backoff_ms", 20)]
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
        self._stub: engine_pb2_grpc.EngineAsyncStub = engine_pb2_grpc.EngineStub(self.channel)

    async def open(self, resume: bool = False) -> SessionResponse.Opened:
        """Open or resume the session, and send what the engine did not take in."""
        self.call = self._stub.Session(wait_for_ready=True)
        opening = SessionRequest.Open(
            session_id=self.session_id,
            grace_period_ms=self._grace_ms,
            resume_after_step=self.step if resume else None,
        )
        await self.call.write(SessionRequest(open=opening))
        first = await self._read()
        assert first.HasField("opened")
        assert first.step == self.step
        assert first.opened.resumed == resume
        for command in self._commands[first.opened.commands_received :]:
            await self.call.write(command)
        return first.opened

    async def submit(self, slot: int, prompt: list[int], max_tokens: int | None = 8) -> None:
        request = GenerateRequest(
            prompt_token_ids=prompt, stop=generation_pb2.StopConditions(max_tokens=max_tokens)
        )
        await self._command(submit=SessionRequest.Submit(slot=slot, request=request))

    async def cancel(self, slot: int) -> None:
        await self._command(cancel=SessionRequest.Cancel(slot=slot))

    async def read(self) -> SessionResponse:
        """The next message, taken in and acknowledged."""
        message = await self._read()
        assert message.step == self.step + 1, "a message is missing, or came twice"
        self.step = message.step
        for slot, token in zip(message.slots, message.token_ids, strict=True):
            self.tokens[slot].append(token)
        for event in message.finished:
            assert event.slot not in self.finished, "a request ended twice"
            self.finished[event.slot] = event
        if self._ack:
            await self.call.write(SessionRequest(ack=SessionRequest.Ack(step=self.step)))
        return message

    async def read_until_finished(self, *slots: int) -> None:
        """Read, resuming whenever the connection breaks."""
        is_open = True
        while not set(slots) <= set(self.finished):
            try:
                if not is_open:
                    await self.open(resume=True)
                    is_open = True
                await self.read()
            except asyncio.InvalidStateError:  # written to when it was broken
                is_open = False
            except grpc.aio.AioRpcError as error:
                if error.code() not in BROKEN:
                    raise
                is_open = False

    async def _command(self, **command: object) -> None:
        self._commands.append(SessionRequest(**command))  # type: ignore[arg-type]
        await self.call.write(self._commands[-1])

    async def _read(self) -> SessionResponse:
        message = await asyncio.wait_for(self.call.read(), PATIENCE_S)
        assert isinstance(message, SessionResponse), "the stream ended"
        return message


@pytest.fixture
async def peer(engine: Engine) -> AsyncIterator[Peer]:
    peer = Peer(engine.port)
    await peer.open()
    yield peer
    await peer.channel.close()


@pytest.fixture
async def proxy(engine: Engine) -> AsyncIterator[CutProxy]:
    async with cut_proxy(engine.port) as proxy:
        yield proxy


async def error_of(peer: Peer) -> StatusError:
    """What the peer's stream ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_to_the_end(peer)
    return StatusError.from_call(caught.value)


async def read_to_the_end(peer: Peer) -> None:
    while await peer.call.read() is not grpc.aio.EOF:
        pass


async def test_twenty_cuts_during_sixty_four_streams_lose_nothing_and_repeat_nothing(
    start_engine: StartEngine,
) -> None:
    engine = await start_engine(HashRunner(model_info(num_blocks=4096, max_model_len=2048)), max_running=64)
    async with cut_proxy(engine.port) as proxy:
        peer = Peer(proxy.port)
        await peer.open()
        engine.runner.hold()
        for slot in range(64):
            await peer.submit(slot, [slot], max_tokens=1000)

        async def cut_while_it_computes() -> None:
            cutting = asyncio.create_task(proxy.cut_at_random(20))
            while not cutting.done():
                engine.runner.allow(1)
                await asyncio.sleep(0.01)
            engine.runner.resume()

        await asyncio.gather(peer.read_until_finished(*range(64)), cut_while_it_computes())
        assert proxy.num_cut == 20
        for slot in range(64):
            assert peer.tokens[slot] == continuation([slot], 1000)
            assert peer.finished[slot].usage.completion_tokens == 1000
        assert (await engine.load()).finished_requests == 64
        await peer.channel.close()


async def test_a_stream_resumes_behind_the_last_step_that_was_received(engine: Engine, peer: Peer) -> None:
    engine.runner.hold()
    await peer.submit(1, [5])
    engine.runner.allow(3)
    while len(peer.tokens[1]) < 3:
        await peer.read()
    peer.call.cancel()
    engine.runner.resume()
    opened = await peer.open(resume=True)
    assert (opened.grace_period_ms, opened.commands_received) == (GRACE_MS, 1)
    await peer.read_until_finished(1)
    assert peer.tokens[1] == continuation([5], 8)


async def test_what_finished_while_the_peer_was_away_is_delivered(engine: Engine, peer: Peer) -> None:
    await peer.submit(1, [5])
    peer.call.cancel()
    await peer.open(resume=True)
    await peer.read_until_finished(1)
    assert peer.tokens[1] == continuation([5], 8)


async def test_a_submit_that_was_lost_is_sent_again_and_one_that_was_not_is_not(
    engine: Engine, peer: Peer
) -> None:
    await peer.submit(1, [5])
    await engine.until(lambda load: load.finished_requests == 1)
    peer.call.cancel()
    with pytest.raises((asyncio.InvalidStateError, asyncio.CancelledError, grpc.aio.AioRpcError)):
        await peer.submit(2, [6])  # the stream is broken: it never arrives
    assert (await peer.open(resume=True)).commands_received == 1
    await peer.read_until_finished(1, 2)
    assert peer.tokens[1] == continuation([5], 8)
    assert peer.tokens[2] == continuation([6], 8)
    assert (await engine.load()).finished_requests == 2


async def test_without_a_grace_period_a_broken_stream_cancels_at_once_and_cannot_be_resumed(
    engine: Engine,
) -> None:
    peer = Peer(engine.port, grace_ms=0)
    assert (await peer.open()).grace_period_ms == 0
    await peer.submit(1, [5], max_tokens=None)
    await peer.read()
    peer.call.cancel()
    await engine.until_idle()
    assert (await engine.load()).sessions == 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await peer.open(resume=True)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    await peer.channel.close()


async def test_when_the_grace_period_is_over_blocks_are_free_and_the_session_is_forgotten(
    start_engine: StartEngine,
) -> None:
    runner = HashRunner(model_info(num_blocks=4096, max_model_len=32_768))
    engine = await start_engine(runner, session_grace_s=0.3)
    peer = Peer(engine.port)
    assert (await peer.open()).grace_period_ms == 300
    engine.runner.hold()
    await peer.submit(1, [5], max_tokens=None)
    engine.runner.allow(2)
    await peer.read()
    peer.call.cancel()
    await engine.until(lambda load: load.sessions == 0)
    engine.runner.resume()
    await engine.until_idle()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await peer.open(resume=True)
    error = StatusError.from_call(caught.value)
    assert error.code is grpc.StatusCode.NOT_FOUND
    await peer.channel.close()


async def test_a_newer_stream_takes_over_and_the_older_one_is_aborted(engine: Engine, peer: Peer) -> None:
    engine.runner.hold()
    await peer.submit(1, [5])
    engine.runner.allow(2)
    await peer.read()
    older = peer.call
    await peer.open(resume=True)
    newer, peer.call = peer.call, older
    assert (await error_of(peer)).code is grpc.StatusCode.ABORTED
    peer.call = newer
    engine.runner.resume()
    await peer.read_until_finished(1)
    assert peer.tokens[1] == continuation([5], 8)


@pytest.mark.parametrize("step", [1, 1000])
async def test_resuming_behind_a_step_that_cannot_be_is_refused(
    engine: Engine, peer: Peer, step: int
) -> None:
    await peer.submit(1, [5])
    await peer.read_until_finished(1)
    await peer.cancel(1)  # a command behind the last acknowledgement, so that both have arrived
    await peer.submit(2, [5])
    peer.finished.clear()
    await peer.read_until_finished(2)
    peer.call.cancel()
    peer.step = step
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await peer.open(resume=True)
    error = StatusError.from_call(caught.value)
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "open.resume_after_step")


class PacedRunner(HashRunner):
    """As a device, it computes without keeping the host's other threads from running."""

    def collect(self) -> StepResult:
        time.sleep(0.001)
        return super().collect()


async def test_a_peer_that_does_not_acknowledge_is_paused_and_delays_nobody(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "MAX_HELD", 4000)
    monkeypatch.setattr(outbox, "MAX_MESSAGE_TOKENS", 64)
    runner = PacedRunner(model_info(num_blocks=1024, max_model_len=4096, max_step_tokens=256))
    engine = await start_engine(runner, max_running=16)
    slow = Peer(engine.port, ack=False)
    await slow.open()
    for slot in range(8):
        await slow.submit(slot, [slot], max_tokens=1500)
    await slow.read()
    # It stands still: nothing is computed for it, and it holds no block.
    await engine.until(
        lambda load: (
            load.running_requests == 0
            and load.waiting_requests == 8
            and load.free_kv_blocks == load.total_kv_blocks
        )
    )
    generated = (await engine.load()).generated_tokens
    assert generated < 2 * 4000  # the bound, and what was computed until the core heard of it

    other = Peer(engine.port)
    await other.open()
    await other.submit(1, [5], max_tokens=1000)
    await other.read_until_finished(1)
    assert other.tokens[1] == continuation([5], 1000)
    # Besides, at most the tokens of a step that was on its way when the peer's requests were set aside.
    assert 0 <= (await engine.load()).generated_tokens - generated - 1000 <= 8

    slow._ack = True
    await slow.read_until_finished(*range(8))
    for slot in range(8):
        assert slow.tokens[slot] == continuation([slot], 1500)
    for peer in (slow, other):
        await peer.channel.close()


async def test_requests_of_a_paused_peer_can_be_cancelled_and_end_with_it(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "MAX_HELD", 1000)
    engine = await start_engine(HashRunner(model_info(max_model_len=900)), session_grace_s=0.0)
    peer = Peer(engine.port, ack=False)
    await peer.open()
    for slot in range(8):
        await peer.submit(slot, [slot], max_tokens=None)
    peer.call.cancel()
    await engine.until_idle()
    assert (await engine.load()).sessions == 0
    await peer.channel.close()
