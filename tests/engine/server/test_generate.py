"""The Generate call: one request, one stream."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from tests.engine.hash_runner import EOS_TOKEN_ID, HashRunner, continuation, model_info, next_token
from tests.engine.running import Engine, StartEngine
from tokenwire.status import StatusError
from tokenwire.v1 import engine_pb2, generation_pb2
from tokenwire.v1.engine_pb2 import GenerateRequest

PROMPT = [5, 6, 7]


def request(prompt: list[int] = PROMPT, max_tokens: int | None = 8, **fields: object) -> GenerateRequest:
    stop = generation_pb2.StopConditions(max_tokens=max_tokens)
    return GenerateRequest(prompt_token_ids=prompt, stop=stop, **fields)  # type: ignore[arg-type]


async def collect(engine: Engine, message: GenerateRequest) -> tuple[list[int], engine_pb2.GenerateResponse]:
    """All tokens, and the last message."""
    tokens: list[int] = []
    async for response in engine.stub.Generate(message):
        tokens += response.token_ids
    return tokens, response


async def test_streams_the_continuation_and_ends_with_reason_and_usage(engine: Engine) -> None:
    tokens, last = await collect(engine, request())
    assert tokens == continuation(PROMPT, 8)
    assert last.finish_reason == generation_pb2.FINISH_REASON_LENGTH
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 8)
    assert not last.HasField("stop_token_id")


async def test_a_stop_token_ends_the_generation_and_is_part_of_it(engine: Engine) -> None:
    message = request(max_tokens=100)
    expected = continuation(PROMPT, 5)
    message.stop.stop_token_ids.append(expected[-1])
    tokens, last = await collect(engine, message)
    assert tokens == expected
    assert last.finish_reason == generation_pb2.FINISH_REASON_STOP
    assert last.stop_token_id == expected[-1]


@pytest.mark.parametrize("ignore_eos", [False, True])
async def test_the_end_of_sequence_ends_the_generation_unless_ignored(
    start_engine: StartEngine, ignore_eos: bool
) -> None:
    third = continuation(PROMPT, 3)[-1]
    engine = await start_engine(HashRunner(model_info(eos_token_ids=(EOS_TOKEN_ID, third))))
    message = request()
    message.stop.ignore_eos = ignore_eos
    tokens, _ = await collect(engine, message)
    assert tokens == continuation(PROMPT, 8 if ignore_eos else 3)


async def test_without_max_tokens_it_ends_when_the_context_is_full(engine: Engine) -> None:
    tokens, last = await collect(engine, request(max_tokens=None))
    assert len(PROMPT) + len(tokens) == 256
    assert last.finish_reason == generation_pb2.FINISH_REASON_LENGTH


async def test_resumed_tokens_count_as_output_and_are_not_sent_again(engine: Engine) -> None:
    whole = continuation(PROMPT, 8)
    tokens, last = await collect(engine, request(resumed_token_ids=whole[:5]))
    assert tokens == whole[5:]
    assert last.usage.completion_tokens == 8


async def test_a_request_that_was_complete_when_resumed_ends_at_once(engine: Engine) -> None:
    tokens, last = await collect(engine, request(resumed_token_ids=continuation(PROMPT, 8)))
    assert tokens == []
    assert last.finish_reason == generation_pb2.FINISH_REASON_LENGTH


async def test_a_prompt_longer_than_a_step_is_computed_in_chunks(engine: Engine) -> None:
    prompt = [next_token([i]) for i in range(200)]
    tokens, _ = await collect(engine, request(prompt))
    assert tokens == continuation(prompt, 8)


async def test_many_requests_at_once_each_get_what_they_get_alone(start_engine: StartEngine) -> None:
    engine = await start_engine(HashRunner(model_info(num_blocks=24)))
    prompts = [[10 + i] * (1 + 7 * i % 90) for i in range(40)]
    results = await asyncio.gather(*(collect(engine, request(prompt, 30)) for prompt in prompts))
    for prompt, (tokens, _) in zip(prompts, results, strict=True):
        assert tokens == continuation(prompt, 30)


async def test_a_hang_up_frees_the_blocks_within_a_step(engine: Engine) -> None:
    engine.runner.hold()
    call = engine.stub.Generate(request(max_tokens=None))
    engine.runner.allow(1)
    await call.read()
    call.cancel()
    await engine.until_nobody_listens()
    engine.runner.resume()
    await engine.until_idle()
    assert engine.runner.steps <= 3  # the one that ran, and the one that had been launched behind it


async def test_a_deadline_cancels_the_request(engine: Engine) -> None:
    engine.runner.hold()
    call = engine.stub.Generate(request(max_tokens=None), timeout=0.1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    engine.runner.resume()
    await engine.until_idle()


async def test_an_id_may_be_used_again_only_after_its_request_ended(engine: Engine) -> None:
    engine.runner.hold()
    first = engine.stub.Generate(request(request_id="twin"))
    engine.runner.allow(1)
    await first.read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(engine, request(request_id="twin"))
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    engine.runner.resume()
    while await first.read() is not grpc.aio.EOF:
        pass
    await collect(engine, request(request_id="twin"))


async def test_a_failed_step_fails_its_requests_and_the_next_one_is_served(engine: Engine) -> None:
    engine.runner.fail_next = RuntimeError("a kernel failed")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(engine, request())
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "a kernel failed" in (caught.value.details() or "")
    tokens, _ = await collect(engine, request())
    assert tokens == continuation(PROMPT, 8)


async def test_a_refusal_carries_the_field_to_the_client(engine: Engine) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(engine, request([]))
    error = StatusError.from_call(caught.value)
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "prompt_token_ids")


async def test_samples_come_one_to_a_message_and_usage_with_the_last(
    engine: Engine,
) -> None:
    message = request(max_tokens=6)
    message.sampling.num_samples = 3
    message.sampling.first_sample_index = 4
    tokens: dict[int, list[int]] = {4: [], 5: [], 6: []}
    ends: list[int] = []
    responses = [response async for response in engine.stub.Generate(message)]
    for response in responses:
        tokens[response.sample_index] += response.token_ids
        if response.finish_reason:
            ends.append(response.sample_index)
    assert tokens == {sample: continuation(PROMPT, 6, sample) for sample in (4, 5, 6)}
    assert sorted(ends) == [4, 5, 6]
    assert [response.HasField("usage") for response in responses] == [False] * (len(responses) - 1) + [True]
    usage = responses[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, 18)
