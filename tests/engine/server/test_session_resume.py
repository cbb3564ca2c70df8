"""Sessions that outlive their connections: nothing lost, nothing twice, nobody else held up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import pytest

from tests.cut_proxy import cut_proxy
from tests.engine.hash_runner import HashRunner, continuation, model_info
from tests.engine.running import Engine, StartEngine
from tests.engine.server.peers import GRACE_MS, ResumingPeer, at_port_and_socket
from tokenwire.status import StatusError
from tokenwire_engine.scheduler.plan import StepResult
from tokenwire_engine.server import outbox, session

pytestmark = at_port_and_socket


@pytest.fixture
async def peer(engine: Engine) -> AsyncIterator[ResumingPeer]:
    peer = ResumingPeer(engine.session_target)
    await peer.begin()
    yield peer
    await peer.channel.close()


async def test_twenty_cuts_during_sixty_four_streams_lose_nothing_and_repeat_nothing(
    start_engine: StartEngine,
) -> None:
    engine = await start_engine(HashRunner(model_info(num_blocks=4096, max_model_len=2048)), max_running=64)
    async with cut_proxy(engine.session_target) as proxy:
        peer = ResumingPeer(proxy.port)
        await peer.begin()
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


async def test_a_stream_resumes_behind_the_last_step_that_was_received(
    engine: Engine, peer: ResumingPeer
) -> None:
    engine.runner.hold()
    await peer.submit(1, [5])
    engine.runner.allow(3)
    while len(peer.tokens[1]) < 3:
        await peer.read()
    peer.call.cancel()
    engine.runner.resume()
    opened = await peer.resume()
    assert (opened.grace_period_ms, opened.commands_received) == (GRACE_MS, 1)
    await peer.read_until_finished(1)
    assert peer.tokens[1] == continuation([5], 8)


async def test_what_finished_while_the_peer_was_away_is_delivered(engine: Engine, peer: ResumingPeer) -> None:
    await peer.submit(1, [5])
    peer.call.cancel()
    await peer.resume()
    await peer.read_until_finished(1)
    assert peer.tokens[1] == continuation([5], 8)


async def test_a_submit_that_was_lost_is_sent_again_and_one_that_was_not_is_not(
    engine: Engine, peer: ResumingPeer
) -> None:
    await peer.submit(1, [5])
    await engine.until(lambda load: load.finished_requests == 1)
    peer.call.cancel()
    with pytest.raises((asyncio.InvalidStateError, asyncio.CancelledError, grpc.aio.AioRpcError)):
        await peer.submit(2, [6])  # the stream is broken: it never arrives
    assert (await peer.resume()).commands_received == 1
    await peer.read_until_finished(1, 2)
    assert peer.tokens[1] == continuation([5], 8)
    assert peer.tokens[2] == continuation([6], 8)
    assert (await engine.load()).finished_requests == 2


async def test_without_a_grace_period_a_broken_stream_cancels_at_once_and_cannot_be_resumed(
    engine: Engine,
) -> None:
    peer = ResumingPeer(engine.session_target, grace_ms=0)
    assert (await peer.begin()).grace_period_ms == 0
    await peer.submit(1, [5], max_tokens=None)
    await peer.read()
    peer.call.cancel()
    await engine.until_idle()
    assert (await engine.load()).sessions == 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await peer.resume()
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    await peer.channel.close()


async def test_when_the_grace_period_is_over_blocks_are_free_and_the_session_is_forgotten(
    start_engine: StartEngine,
) -> None:
    runner = HashRunner(model_info(num_blocks=4096, max_model_len=32_768))
    engine = await start_engine(runner, session_grace_s=0.3)
    peer = ResumingPeer(engine.session_target)
    assert (await peer.begin()).grace_period_ms == 300
    engine.runner.hold()
    await peer.submit(1, [5], max_tokens=None)
    engine.runner.allow(2)
    await peer.read()
    peer.call.cancel()
    await engine.until(lambda load: load.sessions == 0)
    engine.runner.resume()
    await engine.until_idle()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await peer.resume()
    error = StatusError.from_call(caught.value)
    assert error.code is grpc.StatusCode.NOT_FOUND
    await peer.channel.close()


async def test_a_newer_stream_takes_over_and_the_older_one_is_aborted(
    engine: Engine, peer: ResumingPeer
) -> None:
    engine.runner.hold()
    await peer.submit(1, [5])
    engine.runner.allow(2)
    await peer.read()
    older = peer.call
    await peer.resume()
    newer, peer.call = peer.call, older
    assert (await peer.error()).code is grpc.StatusCode.ABORTED
    peer.call = newer
    engine.runner.resume()
    await peer.read_until_finished(1)
    assert peer.tokens[1] == continuation([5], 8)


@pytest.mark.parametrize("step", [1, 1000])
async def test_resuming_behind_a_step_that_cannot_be_is_refused(
    engine: Engine, peer: ResumingPeer, step: int
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
        await peer.resume()
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
    slow = ResumingPeer(engine.session_target, acknowledges=False)
    await slow.begin()
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

    other = ResumingPeer(engine.session_target)
    await other.begin()
    await other.submit(1, [5], max_tokens=1000)
    await other.read_until_finished(1)
    assert other.tokens[1] == continuation([5], 1000)
    # Besides, at most the tokens of a step that was on its way when the peer's requests were set aside.
    assert 0 <= (await engine.load()).generated_tokens - generated - 1000 <= 8

    slow.acknowledges = True
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
    peer = ResumingPeer(engine.session_target, acknowledges=False)
    await peer.begin()
    for slot in range(8):
        await peer.submit(slot, [slot], max_tokens=None)
    peer.call.cancel()
    await engine.until_idle()
    assert (await engine.load()).sessions == 0
    await peer.channel.close()
