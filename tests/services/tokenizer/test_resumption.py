"""Requests that another process of the service had begun, continued from what their peer has of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from tokenizers import Tokenizer

from tests.patience import until
from tests.services.tokenizer.client import (
    LENGTH,
    STOP,
    Request,
    Response,
    chat,
    generate,
    refusal,
    text_of,
    texts_of,
)
from tests.services.tokenizer.conftest import TEXT, Service, said_as_sample, saying, start_service
from tests.services.tokenizer.fake_engine import FakeEngine
from tokenwire.v1 import generation_pb2, tokenizer_pb2

TOOL = tokenizer_pb2.ToolDefinition(name="weather", parameters_json='{"type": "object"}')
CALL = 'Let me see.<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


def resumption_of(responses: Sequence[Response], num_samples: int = 1) -> tokenizer_pb2.Resumption:
    """What a peer knows that received these messages."""
    samples = [
        generation_pb2.TokenIds(
            ids=[token for each in responses if each.sample_index == sample for token in each.token_ids]
        )
        for sample in range(num_samples)
    ]
    return tokenizer_pb2.Resumption(request_id="lost", samples=samples)


def summary(responses: Sequence[Response]) -> tuple[Any, ...]:
    """Everything that was said, however it was cut into messages."""
    calls = [call for response in responses for call in response.tool_calls]
    return (
        text_of(responses),
        [(call.index, call.name) for call in calls if call.name],
        "".join(call.arguments_delta for call in calls),
        [token for response in responses for token in response.token_ids],
        [logprob for response in responses for logprob in response.logprobs.token_logprobs],
        responses[-1].finish_reason,
        responses[-1].stop_string,
        responses[-1].usage.completion_tokens,
    )


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (Request(text="Hello"), TEXT),
        (Request(text="Hello", stop_strings=["ight"]), TEXT + "It is all right."),
        (Request(text="Hello", logprobs={"num_logprobs": 0}), TEXT),
        (chat(tools=[TOOL]), CALL),
    ],
    ids=["text", "a stop string", "log-probabilities", "a tool call"],
)
async def test_wherever_it_was_cut_the_rest_follows(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer, request_: Request, reply: str
) -> None:
    engine.reply = saying(tokenizer, reply)
    request_.return_token_ids = True
    request_.sampling.seed = 1
    whole = await generate(service, request_)

    for num_received in range(1, len(whole)):
        received = whole[:num_received]
        again = Request()
        again.CopyFrom(request_)
        again.resumption.CopyFrom(resumption_of(received))
        rest = await generate(service, again)
        assert summary([*received, *rest]) == summary(whole)
        assert engine.requests[-1].continued_request_id == "lost"
        told_anew = any(response.prompt_token_ids for response in rest)
        assert told_anew == (not again.resumption.samples[0].ids)


async def test_several_samples_go_on_each_from_where_it_was(service: Service, tokenizer: Tokenizer) -> None:
    asked = Request(text="Hello", sampling={"num_samples": 3, "seed": 1}, return_token_ids=True)
    whole = await generate(service, asked)
    received = whole[: len(whole) // 2]
    asked.resumption.CopyFrom(resumption_of(received, 3))
    rest = await generate(service, asked)

    assert texts_of([*received, *rest]) == {sample: said_as_sample(tokenizer, sample) for sample in range(3)}
    assert rest[-1].usage == whole[-1].usage


async def test_a_request_of_which_nothing_was_received_begins_anew(service: Service) -> None:
    responses = await generate(service, Request(text="Hello", resumption={"request_id": "lost"}))

    assert text_of(responses) == TEXT


async def test_a_process_that_has_only_just_started_waits_for_the_engine(
    engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    await engine.stop()
    ids = tokenizer.encode(TEXT).ids
    asked = Request(text="Hello", resumption={"request_id": "lost", "samples": [{"ids": ids[:3]}]})
    async for service in start_service(engine, wait=False):
        rest = asyncio.create_task(generate(service, asked))
        assert (await refusal(service, Request(text="Hello"))).code is grpc.StatusCode.UNAVAILABLE
        await asyncio.sleep(0.2)
        await engine.start()
        assert text_of(await rest) == TEXT[len(tokenizer.decode(ids[:3])) :]


async def test_it_waits_no_longer_than_the_failover_takes(engine: FakeEngine) -> None:
    await engine.stop()
    async for service in start_service(engine, wait=False, failover_timeout_s=0.2):
        error = await refusal(service, Request(text="Hello", resumption={"request_id": "lost"}))
        assert error.code is grpc.StatusCode.UNAVAILABLE
        await engine.start()
        await until(service.is_up)
        error = await refusal(service, Request(text="x", model="none", resumption={"request_id": "lost"}))
        assert error.code is grpc.StatusCode.NOT_FOUND


async def test_one_that_was_complete_ends_at_once(
    service: Service, engine: FakeEngine, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode(TEXT).ids
    asked = Request(text="Hello", stop_strings=[TEXT[-4:]], resumption={"samples": [{"ids": ids}]})
    (response,) = await generate(service, asked)

    assert (response.text_delta, response.finish_reason, response.stop_string) == ("", STOP, TEXT[-4:])
    assert response.usage.completion_tokens == len(ids)
    assert not engine.requests


async def test_what_was_received_counts_as_output(service: Service, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT).ids
    asked = Request(text="Hello", stop={"max_tokens": 5}, resumption={"samples": [{"ids": ids[:3]}]})
    responses = await generate(service, asked)

    assert text_of(responses) == tokenizer.decode(ids[:5])[len(tokenizer.decode(ids[:3])) :]
    assert (responses[-1].finish_reason, responses[-1].usage.completion_tokens) == (LENGTH, 5)


@pytest.mark.parametrize(
    ("samples", "field"),
    [
        ([{"ids": [1]}, {"ids": [2]}], "resumption.samples"),
        ([{"ids": [1, 2**31]}], "resumption.samples[0]"),
    ],
    ids=["more samples than the request has", "a token that there is not"],
)
async def test_what_cannot_have_been_received_is_refused(
    service: Service, samples: list[Any], field: str
) -> None:
    error = await refusal(service, Request(text="Hello", resumption={"samples": samples}))
    assert error.field == field
