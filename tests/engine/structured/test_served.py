"""Constraints over gRPC: one request, a session, refusals, cancellation."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import grpc
import pytest
from tokenizers import Tokenizer

from tests.engine.running import serving
from tokenwire.status import StatusError
from tokenwire.v1 import engine_pb2_grpc
from tokenwire.v1.engine_pb2 import GenerateRequest, SessionRequest, SessionResponse
from tokenwire.v1.generation_pb2 import (
    FINISH_REASON_CANCELLED,
    FINISH_REASON_ERROR,
    FINISH_REASON_STOP,
    Constraint,
    LogprobOptions,
    SamplingParams,
    StopConditions,
)
from tokenwire_engine.runner.load import load_runner

PHONE = Constraint(regex=r"\d{3}-\d{4}")


@pytest.fixture
async def stub() -> AsyncIterator[engine_pb2_grpc.EngineAsyncStub]:
    async with serving(load_runner, device="cpu", kv_cache_memory=16 << 20) as stub:
        yield stub


def request(constraint: Constraint, **fields: object) -> GenerateRequest:
    return GenerateRequest(
        prompt_token_ids=[5, 6, 7],
        constraint=constraint,
        sampling=SamplingParams(seed=3),
        stop=StopConditions(max_tokens=100),
        **fields,  # type: ignore[arg-type]
    )


async def test_a_constrained_request_ends_when_its_output_is_complete(
    stub: engine_pb2_grpc.EngineAsyncStub, tokenizer: Tokenizer
) -> None:
    responses = [response async for response in stub.Generate(request(PHONE))]
    tokens = [token for response in responses for token in response.token_ids]
    assert re.fullmatch(r"\d{3}-\d{4}", tokenizer.decode(tokens))
    assert responses[-1].finish_reason == FINISH_REASON_STOP
    assert not responses[-1].HasField("stop_token_id")
    resumed = request(PHONE, resumed_token_ids=tokens[:3])
    rest = [token async for response in stub.Generate(resumed) for token in response.token_ids]
    assert tokens[:3] + rest == tokens


async def test_a_constraint_that_cannot_be_compiled_is_refused(
    stub: engine_pb2_grpc.EngineAsyncStub,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(request(Constraint(json_schema='{"type": "text"}'))).read()
    error = StatusError.from_call(caught.value)
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "constraint.json_schema")
    assert "Invalid type: text" in error.message


async def test_a_sessions_requests_are_constrained_refused_and_cancelled_one_by_one(
    stub: engine_pb2_grpc.EngineAsyncStub, tokenizer: Tokenizer
) -> None:
    call = stub.Session()
    await call.write(SessionRequest(open=SessionRequest.Open(session_id="a")))
    bad = Constraint(regex="(")
    endless = Constraint(regex="a{1000000}")
    for slot, constraint in enumerate((PHONE, bad, endless)):
        await call.write(SessionRequest(submit=SessionRequest.Submit(slot=slot, request=request(constraint))))
    await call.write(SessionRequest(cancel=SessionRequest.Cancel(slot=2)))
    tokens: dict[int, list[int]] = {}
    ends: dict[int, SessionResponse.FinishEvent] = {}
    while len(ends) < 3:
        response = await call.read()
        assert isinstance(response, SessionResponse)
        for slot, token in zip(response.slots, response.token_ids, strict=True):
            tokens.setdefault(slot, []).append(token)
        ends |= {event.slot: event for event in response.finished}
    assert re.fullmatch(r"\d{3}-\d{4}", tokenizer.decode(tokens[0]))
    assert [ends[slot].reason for slot in range(3)] == [
        FINISH_REASON_STOP,
        FINISH_REASON_ERROR,
        FINISH_REASON_CANCELLED,
    ]
    error = StatusError.from_proto(ends[1].error)
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "constraint.regex")
    await call.write(SessionRequest(submit=SessionRequest.Submit(slot=2, request=request(PHONE))))
    while True:
        response = await call.read()
        assert isinstance(response, SessionResponse)
        if response.finished:
            break
    assert response.finished[0].reason == FINISH_REASON_STOP
    await call.done_writing()


async def test_a_token_that_is_refused_takes_its_log_probability_with_it(
    stub: engine_pb2_grpc.EngineAsyncStub, tokenizer: Tokenizer
) -> None:
    hopeless = request(PHONE, logprobs=LogprobOptions(num_logprobs=0))
    hopeless.sampling.allowed_token_ids.append(tokenizer.token_to_id("a"))
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Generate(hopeless).read()
    call = stub.Session()
    await call.write(SessionRequest(open=SessionRequest.Open(session_id="a")))
    for slot, submitted in enumerate((hopeless, request(PHONE))):
        await call.write(SessionRequest(submit=SessionRequest.Submit(slot=slot, request=submitted)))
    reasons: dict[int, int] = {}
    while len(reasons) < 2:
        response = await call.read()
        assert isinstance(response, SessionResponse)
        assert not response.logprobs
        reasons |= {event.slot: event.reason for event in response.finished}
    assert reasons == {0: FINISH_REASON_ERROR, 1: FINISH_REASON_STOP}
    await call.done_writing()
