"""An engine that drains: nothing is admitted, what runs goes on, and what is left is handed back."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.engine.hash_runner import continuation
from tests.engine.running import Engine, handed_back
from tests.engine.server.peers import at_port_and_socket
from tokenwire.v1.engine_admin_pb2 import DrainResponse
from tokenwire.v1.engine_pb2 import (
    GenerateRequest,
    HandedBack,
    SessionRequest,
    SessionResponse,
)
from tokenwire.v1.generation_pb2 import StopConditions
from tokenwire_engine.runner.base import DeviceLostError

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def drain(engine: Engine, timeout_ms: int | None = None) -> asyncio.Task[DrainResponse]:
    """A call that runs."""
    return asyncio.create_task(engine.drain(timeout_ms))


async def health(engine: Engine) -> int:
    request = health_pb2.HealthCheckRequest(service="tokenwire.v1.Engine")
    return (await health_pb2_grpc.HealthStub(engine.channel).Check(request)).status


def request(prompt: list[int], max_tokens: int) -> GenerateRequest:
    return GenerateRequest(prompt_token_ids=prompt, stop=StopConditions(max_tokens=max_tokens))


async def generate(engine: Engine, asked: GenerateRequest) -> tuple[list[int], grpc.aio.AioRpcError | None]:
    """All tokens, and what it failed with."""
    tokens: list[int] = []
    try:
        async for response in engine.stub.Generate(asked):
            tokens += response.token_ids
    except grpc.aio.AioRpcError as error:
        return tokens, error
    return tokens, None


async def test_an_idle_engine_is_drained_at_once_and_admits_again_when_told_to(engine: Engine) -> None:
    report = await drain(engine)
    assert (report.finished_requests, report.handed_back_requests) == (0, 0)
    assert await health(engine) == NOT_SERVING
    assert (await engine.load()).draining
    tokens, error = await generate(engine, request([1], 5))
    assert tokens == []
    assert handed_back(error) == HandedBack(output_tokens=0)

    assert (await engine.undrain()).was_draining
    assert await health(engine) == SERVING
    assert not (await engine.load()).draining
    assert (await generate(engine, request([1], 5)))[0] == continuation([1], 5)
    assert not (await engine.undrain()).was_draining


async def test_requests_that_run_or_wait_go_on_to_their_end(start_engine) -> None:
    engine = await start_engine(max_running=2)
    engine.runner.hold()
    running = [asyncio.create_task(generate(engine, request([n], 200))) for n in range(1, 6)]
    await engine.step_until(lambda load: load.waiting_requests == 3)
    draining = drain(engine)
    await engine.until(lambda load: load.draining)
    assert not draining.done()
    engine.runner.resume()
    for number, (tokens, error) in enumerate(await asyncio.gather(*running), start=1):
        assert error is None
        assert tokens == continuation([number], 200)
    report = await draining
    assert (report.finished_requests, report.handed_back_requests) == (5, 0)


async def test_what_is_left_at_the_timeout_is_handed_back_after_all_of_its_tokens(engine: Engine) -> None:
    engine.runner.hold()
    running = asyncio.create_task(generate(engine, request([7], 200)))
    await engine.step_until(lambda load: load.generated_tokens >= 40)
    draining = drain(engine, timeout_ms=50)
    async with engine.step_by_step():
        tokens, error = await running
    back = handed_back(error)
    assert 40 <= len(tokens) == back.output_tokens < 200
    assert tokens == continuation([7], len(tokens))
    report = await draining
    assert (report.finished_requests, report.handed_back_requests) == (0, 1)
    assert report.duration_ms >= 50
    assert (await engine.load()).free_kv_blocks == (await engine.load()).total_kv_blocks


@at_port_and_socket
async def test_a_session_hears_of_its_requests_and_goes_on(engine: Engine) -> None:
    session = engine.session_stub().Session()
    await session.write(SessionRequest(open=SessionRequest.Open(session_id="s")))
    await session.read()
    engine.runner.hold()
    for slot in range(3):
        await submit(session, slot, request([slot], 200))
    await engine.step_until(lambda load: load.generated_tokens >= 20 and load.running_requests == 3)
    draining = drain(engine, timeout_ms=0)
    async with engine.step_by_step():
        tokens, ends = await read_ends(session, 3)
    for slot in range(3):
        assert back_of(ends[slot]).output_tokens == len(tokens[slot])
        assert tokens[slot] == continuation([slot], len(tokens[slot]))
    assert (await draining).handed_back_requests == 3
    await submit(session, 0, request([5], 5))
    _, refused = await read_ends(session, 1)
    assert back_of(refused[0]) == HandedBack()

    await engine.undrain()
    resumed = request([1], 200)
    resumed.resumed_token_ids.extend(tokens[1])
    await submit(session, 1, resumed)
    rest, _ = await read_ends(session, 1)
    assert tokens[1] + rest[1] == continuation([1], 200)
    session.cancel()


async def test_a_later_call_sets_another_timeout(engine: Engine) -> None:
    engine.runner.hold()
    running = asyncio.create_task(generate(engine, request([1], 200)))
    await engine.step_until(lambda load: load.generated_tokens > 0)
    patient = drain(engine)
    await engine.until(lambda load: load.draining)
    hasty = drain(engine, timeout_ms=0)
    async with engine.step_by_step():
        assert handed_back((await running)[1])
    assert (await patient) == (await hasty)


async def test_to_admit_again_ends_a_drain_that_waits(engine: Engine) -> None:
    engine.runner.hold()
    running = asyncio.create_task(generate(engine, request([1], 20)))
    await engine.step_until(lambda load: load.generated_tokens > 0)
    waiting = drain(engine, timeout_ms=100)
    await engine.until(lambda load: load.draining)
    await engine.undrain()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await waiting
    assert caught.value.code() is grpc.StatusCode.ABORTED
    await asyncio.sleep(0.15)
    engine.runner.resume()
    assert await running == (continuation([1], 20), None)


async def test_a_drain_that_waits_ends_with_the_engine(engine: Engine) -> None:
    engine.runner.hold()
    running = asyncio.create_task(generate(engine, request([1], 20)))
    await engine.step_until(lambda load: load.generated_tokens > 0)
    waiting = drain(engine)
    await engine.until(lambda load: load.draining)
    engine.runner.fail_next = DeviceLostError("the card is gone")
    engine.runner.resume()
    await running
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await waiting
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def submit(session, slot: int, asked: GenerateRequest) -> None:
    await session.write(SessionRequest(submit=SessionRequest.Submit(slot=slot, request=asked)))


async def read_ends(
    session, count: int
) -> tuple[dict[int, list[int]], dict[int, SessionResponse.FinishEvent]]:
    """Tokens and ends by slot, up to so many ends."""
    tokens: dict[int, list[int]] = {}
    ends: dict[int, SessionResponse.FinishEvent] = {}
    while len(ends) < count:
        message = await session.read()
        for slot, token in zip(message.slots, message.token_ids, strict=True):
            tokens.setdefault(slot, []).append(token)
        ends |= {event.slot: event for event in message.finished}
    return tokens, ends


def back_of(event: SessionResponse.FinishEvent) -> HandedBack:
    """What is said about a request that is handed back; its seed, which is drawn, left out."""
    back = HandedBack()
    assert any(detail.Unpack(back) for detail in event.error.details)
    assert event.HasField("usage"), "the slot is free"
    back.ClearField("seed")
    return back
