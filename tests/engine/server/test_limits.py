"""What the engine's own limits refuse and end: its queue, its timeouts, its policy."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from tests.engine.hash_runner import continuation
from tests.engine.running import Engine, StartEngine
from tests.engine.server.peers import at_port_and_socket
from tokenwire.status import StatusError
from tokenwire.v1 import generation_pb2
from tokenwire.v1.engine_pb2 import GenerateRequest, SessionRequest


async def finish(engine: Engine, request: GenerateRequest) -> list[int]:
    return [token async for response in engine.stub.Generate(request) for token in response.token_ids]


async def refusal(engine: Engine, request: GenerateRequest) -> StatusError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await finish(engine, request)
    return StatusError.from_call(caught.value)


async def test_a_full_queue_refuses_with_a_time_to_retry_and_takes_requests_again(
    start_engine: StartEngine,
) -> None:
    engine = await start_engine(max_running=2, max_waiting=1)
    engine.runner.hold()
    request = GenerateRequest(prompt_token_ids=[1], stop=generation_pb2.StopConditions(max_tokens=100))
    admitted = [asyncio.create_task(finish(engine, request)) for _ in range(3)]
    await engine.step_until(lambda load: (load.running_requests, load.waiting_requests) == (2, 1))
    error = await refusal(engine, request)
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.retry_after_s is not None
    assert error.retry_after_s > 0
    engine.runner.resume()
    assert await asyncio.gather(*admitted) == [continuation([1], 100)] * 3
    assert await finish(engine, request) == continuation([1], 100)


async def test_a_timeout_ends_a_running_and_a_queued_request(start_engine: StartEngine) -> None:
    engine = await start_engine(max_running=1)
    engine.runner.hold()
    request = GenerateRequest(prompt_token_ids=[1], timeout_ms=50)
    refused = [asyncio.create_task(refusal(engine, request)) for _ in range(2)]
    async with engine.step_by_step():
        errors = await asyncio.gather(*refused)
    for error in errors:
        assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "time was up" in error.message


@at_port_and_socket
async def test_in_a_session_a_timeout_is_the_end_of_that_request_only(engine: Engine) -> None:
    engine.runner.hold()
    session = engine.session_stub().Session()
    await session.write(SessionRequest(open=SessionRequest.Open(session_id="a")))
    for slot, max_tokens, timeout_ms in ((0, 200, 50), (1, 4, None)):
        request = GenerateRequest(
            prompt_token_ids=[1],
            stop=generation_pb2.StopConditions(max_tokens=max_tokens),
            timeout_ms=timeout_ms,
        )
        await session.write(SessionRequest(submit=SessionRequest.Submit(slot=slot, request=request)))
    await session.done_writing()
    async with engine.step_by_step():
        ends = {event.slot: event async for response in session for event in response.finished}
    assert ends[0].reason == generation_pb2.FINISH_REASON_ERROR
    assert ends[0].error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert ends[1].reason == generation_pb2.FINISH_REASON_LENGTH


async def test_priority_is_refused_where_nothing_goes_by_it(start_engine: StartEngine) -> None:
    request = GenerateRequest(
        prompt_token_ids=[1],
        stop=generation_pb2.StopConditions(max_tokens=4),
        context=generation_pb2.RequestContext(priority=1, tenant="a", cache_salt="b"),
    )
    for policy in ("fcfs", "fair"):
        error = await refusal(await start_engine(policy=policy), request)
        assert (error.code, error.field) == (grpc.StatusCode.UNIMPLEMENTED, "context.priority")
        assert f"schedules by {policy}" in error.message
    assert await finish(await start_engine(policy="priority"), request) == continuation([1], 4)
