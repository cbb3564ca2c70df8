"""From a GenerateRequest to what the core computes, and what is refused on the way."""

from __future__ import annotations

import dataclasses
import math
import time

import grpc
import pytest

from tests.engine.hash_runner import EOS_TOKEN_ID, VOCAB_SIZE, model_info
from tokenwire.status import StatusError
from tokenwire.v1.engine_pb2 import GenerateRequest
from tokenwire.v1.generation_pb2 import (
    LogprobOptions,
    RequestContext,
    SamplingParams,
    StopConditions,
    TokenIds,
)
from tokenwire_engine.scheduler.request import Request
from tokenwire_engine.server.model import ServedModel
from tokenwire_engine.server.requests import read_request

MODEL = ServedModel(
    info=model_info(max_model_len=256, num_blocks=64),
    names=("hash-model", "alias"),
    max_running=8,
    max_requests=12,
    instance_id="an-instance",
    created_unix_s=0,
)


def read(served: ServedModel = MODEL, **fields: object) -> Request:
    return read_request(GenerateRequest(**({"prompt_token_ids": [1]} | fields)), served, channel=1)  # type: ignore[arg-type]


def refusal(served: ServedModel = MODEL, **fields: object) -> StatusError:
    with pytest.raises(StatusError) as caught:
        read(served, **fields)
    return caught.value


def test_an_empty_request_has_the_documented_defaults() -> None:
    request = read()
    defaults = dataclasses.replace(request.sampling, seed=0)
    assert defaults == type(defaults)()
    assert request.max_tokens == 256
    assert request.stop_token_ids == {EOS_TOKEN_ID}
    assert request.output_token_ids == []


def test_every_supported_field_arrives() -> None:
    sampling = SamplingParams(
        temperature=0.5,
        top_k=40,
        top_p=0.25,
        min_p=0.125,
        repetition_penalty=1.5,
        presence_penalty=-1.0,
        frequency_penalty=0.75,
        seed=-7,
        typical_p=0.75,
        logit_bias={3: 1.5, 4: -100.0},
        bad_words=[TokenIds(ids=[5]), TokenIds(ids=[6, 7])],
        allowed_token_ids=[9, 3, 8, 9],
    )
    request = read(
        request_id="mine",
        model="alias",
        prompt_token_ids=[1, 2],
        resumed_token_ids=[3],
        sampling=sampling,
        stop=StopConditions(max_tokens=9, min_tokens=2, stop_token_ids=[8], ignore_eos=True),
        logprobs=LogprobOptions(num_logprobs=20, num_prompt_logprobs=0),
    )
    for name in (
        "temperature", "top_k", "top_p", "min_p", "typical_p",
        "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
    ):  # fmt: skip
        assert getattr(request.sampling, name) == getattr(sampling, name), name
    assert request.sampling.logit_bias == {3: 1.5, 4: -100.0}
    assert request.sampling.bad_words == ((5,), (6, 7))
    assert request.sampling.allowed_token_ids == (3, 8, 9)
    assert (request.sampling.min_tokens, request.sampling.ending_token_ids) == (2, (8,))
    assert (request.sampling.num_logprobs, request.num_prompt_logprobs) == (20, 0)
    assert (request.request_id, request.prompt_token_ids, request.output_token_ids) == ("mine", [1, 2], [3])
    assert (request.max_tokens, request.stop_token_ids) == (9, {8})


def test_the_context_and_the_time_arrive() -> None:
    served = dataclasses.replace(MODEL, policy="priority")
    context = RequestContext(priority=-3, tenant="a", cache_salt="b")
    request = read(served, context=context, timeout_ms=1500)
    assert (request.priority, request.tenant, request.cache.scope) == (-3, "a", ("", "b"))
    assert request.deadline_s is not None
    assert 0 < request.deadline_s - time.monotonic() <= 1.5
    assert read().deadline_s is None


def test_a_request_without_a_seed_draws_one_and_without_an_id_gets_one() -> None:
    first, second = read(), read()
    assert first.sampling.seed != second.sampling.seed
    assert first.request_id != second.request_id


def test_top_k_beyond_the_vocabulary_keeps_every_token() -> None:
    assert read(sampling=SamplingParams(top_k=VOCAB_SIZE)).sampling.top_k == 0


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("temperature", [-0.5, math.nan, math.inf]),
        ("top_p", [0.0, -0.5, 1.5, math.nan]),
        ("min_p", [-0.5, 1.5, math.nan]),
        ("typical_p", [0.0, 1.5, math.nan]),
        ("repetition_penalty", [0.0, -1.0, math.inf, math.nan]),
        ("presence_penalty", [-2.5, 2.5, math.nan]),
        ("frequency_penalty", [-2.5, 2.5, -math.inf]),
        ("num_samples", [0, 129]),
        ("first_sample_index", [128]),
    ],
)
def test_sampling_parameters_out_of_range_are_refused(field: str, values: list[float]) -> None:
    for value in values:
        error = refusal(sampling=SamplingParams(**{field: value}))  # type: ignore[arg-type]
        assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, f"sampling.{field}")
        assert "expected" in error.message


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"prompt_token_ids": []}, "prompt_token_ids"),
        ({"prompt_token_ids": [1, VOCAB_SIZE]}, "prompt_token_ids"),
        ({"resumed_token_ids": [VOCAB_SIZE]}, "resumed_token_ids"),
        ({"stop": StopConditions(stop_token_ids=[VOCAB_SIZE])}, "stop.stop_token_ids"),
        ({"stop": StopConditions(max_tokens=0)}, "stop.max_tokens"),
        ({"request_id": "ü" * 129}, "request_id"),
        ({"context": RequestContext(tenant="ü" * 513)}, "context.tenant"),
        ({"context": RequestContext(cache_salt="x" * 1025)}, "context.cache_salt"),
        ({"sampling": SamplingParams(logit_bias={VOCAB_SIZE: 1.0})}, "sampling.logit_bias"),
        ({"sampling": SamplingParams(logit_bias={1: 100.5})}, "sampling.logit_bias"),
        ({"sampling": SamplingParams(logit_bias={1: math.nan})}, "sampling.logit_bias"),
        ({"sampling": SamplingParams(bad_words=[TokenIds()])}, "sampling.bad_words[0].ids"),
        (
            {"sampling": SamplingParams(bad_words=[TokenIds(ids=[1]), TokenIds(ids=[1] * 33)])},
            "sampling.bad_words[1].ids",
        ),
        (
            {"sampling": SamplingParams(bad_words=[TokenIds(ids=[1, VOCAB_SIZE])])},
            "sampling.bad_words[0].ids",
        ),
        ({"sampling": SamplingParams(bad_words=[TokenIds(ids=[1])] * 1025)}, "sampling.bad_words"),
        ({"sampling": SamplingParams(allowed_token_ids=[VOCAB_SIZE])}, "sampling.allowed_token_ids"),
        ({"stop": StopConditions(max_tokens=3, min_tokens=4)}, "stop.min_tokens"),
        ({"logprobs": LogprobOptions(num_logprobs=21)}, "logprobs.num_logprobs"),
        ({"logprobs": LogprobOptions(num_prompt_logprobs=21)}, "logprobs.num_prompt_logprobs"),
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"resumed_token_ids": [1], "sampling": SamplingParams(num_samples=2)}, "resumed_token_ids"),
        ({"context": RequestContext(priority=101)}, "context.priority"),
    ],
)
def test_other_invalid_fields_are_refused_by_name(fields: dict[str, object], at_fault: str) -> None:
    error = refusal(**fields)
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, at_fault)


def test_the_error_about_a_token_says_which_and_what_is_allowed() -> None:
    message = refusal(prompt_token_ids=[1, 1000, 1]).message
    assert message == "prompt_token_ids: token 1 is 1000; expected less than the vocabulary's 1000"


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"context": RequestContext(priority=-1)}, "context.priority"),
        ({"context": RequestContext(adapter="a")}, "context.adapter"),
    ],
)
def test_a_field_that_nothing_acts_on_is_unimplemented(fields: dict[str, object], at_fault: str) -> None:
    error = refusal(**fields)
    assert (error.code, error.field) == (grpc.StatusCode.UNIMPLEMENTED, at_fault)


def test_fields_set_to_what_changes_nothing_are_accepted() -> None:
    read(
        sampling=SamplingParams(typical_p=1.0, num_samples=1),
        logprobs=LogprobOptions(),
        context=RequestContext(),
    )


def test_a_request_that_leaves_no_token_to_choose_is_refused() -> None:
    forbidden = SamplingParams(allowed_token_ids=[1, 2], bad_words=[TokenIds(ids=[1])])
    error = refusal(sampling=forbidden, stop=StopConditions(min_tokens=1, stop_token_ids=[2]))
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "sampling.allowed_token_ids")
    read(sampling=forbidden, stop=StopConditions(stop_token_ids=[2]))


def test_a_prompt_that_fills_the_context_is_refused_with_the_numbers() -> None:
    read(prompt_token_ids=[1] * 255)
    message = refusal(prompt_token_ids=[1] * 256).message
    assert "has 256 tokens" in message
    assert "the model's context holds 256 tokens, so send at most 255" in message


def test_resumed_tokens_take_room_in_the_context() -> None:
    message = refusal(prompt_token_ids=[1] * 200, resumed_token_ids=[1] * 56).message
    assert "has 200 tokens, with 56 resumed" in message
    assert "at most 199" in message


def test_a_prompt_that_the_cache_could_never_hold_is_refused_with_the_numbers() -> None:
    small = dataclasses.replace(MODEL, info=model_info(num_blocks=2))
    message = refusal(small, prompt_token_ids=[1] * 32).message
    assert "the engine's KV cache holds 32 tokens, so send at most 31" in message


def test_another_model_is_not_found() -> None:
    error = refusal(model="other")
    assert error.code is grpc.StatusCode.NOT_FOUND
    assert "served: hash-model, alias" in error.message
