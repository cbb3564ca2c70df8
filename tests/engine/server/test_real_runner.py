"""The whole engine in one process: gRPC server, core thread, scheduler, real runner, demo model."""

from __future__ import annotations

import asyncio

import pytest

from tests.engine.running import serving
from tokenwire.v1.engine_pb2 import GenerateRequest, GetLoadRequest
from tokenwire.v1.generation_pb2 import SamplingParams, StopConditions, TokenIds
from tokenwire_engine.runner.load import load_runner

NUM_REQUESTS = 12
SMALL_CACHE = 2_200_000
"""Bytes: a full context of the demo model fits, two do not."""


def request(number: int, temperature: float) -> GenerateRequest:
    message = GenerateRequest(
        prompt_token_ids=[10 + number + i for i in range(5 + 12 * number)],
        sampling=SamplingParams(temperature=temperature, top_k=4, seed=number, frequency_penalty=0.3),
        stop=StopConditions(max_tokens=80, ignore_eos=True),
    )
    match number % 4:
        case 1:
            message.sampling.typical_p = 0.8
            message.sampling.logit_bias.update({50: 4.0, 60: 4.0, 70: 3.0})
            message.sampling.bad_words.extend([TokenIds(ids=[50, 60]), TokenIds(ids=[60, 60, 70])])
        case 2:
            message.sampling.allowed_token_ids.extend(range(40, 90))
            message.stop.stop_token_ids.append(41)
            message.stop.min_tokens = 20
            message.logprobs.num_logprobs = 2
    return message


async def outputs(
    temperature: float, concurrency: int, cache_bytes: int, resumed: list[list[int]] | None = None
) -> tuple[list[list[int]], int]:
    """The tokens of each request on a new engine, so many at a time, and how often one was preempted.

    `resumed` are tokens that an earlier engine produced; they are part of the result.
    """
    config = {"device": "cpu", "max_model_len": 512, "max_step_tokens": 96, "kv_cache_memory": cache_bytes}
    async with serving(load_runner, **config) as stub:
        turn = asyncio.Semaphore(concurrency)

        async def generate(number: int) -> list[int]:
            async with turn:
                message = request(number, temperature)
                tokens = list(resumed[number]) if resumed else []
                message.resumed_token_ids.extend(tokens)
                async for response in stub.Generate(message):
                    tokens += response.token_ids
                return tokens

        results = await asyncio.gather(*(generate(number) for number in range(NUM_REQUESTS)))
        load = await stub.GetLoad(GetLoadRequest())
    return results, load.preemptions


@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_a_request_gives_the_same_tokens_alone_batched_preempted_and_resumed(
    temperature: float,
) -> None:
    alone, _ = await outputs(temperature, concurrency=1, cache_bytes=64 << 20)
    batched, preempted = await outputs(temperature, concurrency=NUM_REQUESTS, cache_bytes=64 << 20)
    assert preempted == 0
    assert_same(batched, alone, temperature)
    squeezed, preempted = await outputs(temperature, concurrency=NUM_REQUESTS, cache_bytes=SMALL_CACHE)
    assert preempted > 0
    assert_same(squeezed, alone, temperature)
    begun = [tokens[: len(tokens) // 2] for tokens in alone]
    resumed, _ = await outputs(temperature, concurrency=4, cache_bytes=64 << 20, resumed=begun)
    assert_same(resumed, alone, temperature)


def assert_same(results: list[list[int]], expected: list[list[int]], temperature: float) -> None:
    """Equal, but for rounding: a matrix product of another batch size differs in its last bits, and once in a
    great while two tokens all but tie. Random numbers that depended on the batch would change nearly every
    request."""
    differing = sum(result != wanted for result, wanted in zip(results, expected, strict=True))
    assert differing <= (1 if temperature else 0)
