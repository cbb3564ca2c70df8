"""The whole engine in one process: gRPC server, core thread, scheduler, real runner, demo model."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from tokenwire.v1 import engine_pb2_grpc
from tokenwire.v1.engine_pb2 import GenerateRequest, GetLoadRequest
from tokenwire.v1.generation_pb2 import SamplingParams, StopConditions
from tokenwire_engine.config import EngineConfig
from tokenwire_engine.runner.load import load_runner
from tokenwire_engine.server.server import EngineServer

NUM_REQUESTS = 12
SMALL_CACHE = 2_200_000
"""Bytes: a full context of the demo model fits, two do not."""


def request(number: int, temperature: float) -> GenerateRequest:
    return GenerateRequest(
        prompt_token_ids=[10 + number + i for i in range(5 + 12 * number)],
        sampling=SamplingParams(temperature=temperature, seed=number, frequency_penalty=0.3),
        stop=StopConditions(max_tokens=40, ignore_eos=True),
    )


async def outputs(temperature: float, concurrency: int, cache_bytes: int) -> tuple[list[list[int]], int]:
    """The tokens of each request on a new engine, so many at a time, and how often one was preempted."""
    config = EngineConfig(
        port=0, device="cpu", max_model_len=512, max_step_tokens=96, kv_cache_memory=cache_bytes
    )
    server = EngineServer(config, load_runner, lambda *_: None)
    await server.start()
    await server.ready()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub: engine_pb2_grpc.EngineAsyncStub = engine_pb2_grpc.EngineStub(channel)
        turn = asyncio.Semaphore(concurrency)

        async def generate(number: int) -> list[int]:
            async with turn:
                tokens: list[int] = []
                async for response in stub.Generate(request(number, temperature)):
                    tokens += response.token_ids
                return tokens

        results = await asyncio.gather(*(generate(number) for number in range(NUM_REQUESTS)))
        load = await stub.GetLoad(GetLoadRequest())
    assert load.free_kv_blocks == load.total_kv_blocks
    assert await server.stop()
    return results, load.preemptions


@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_a_request_gives_the_same_tokens_alone_batched_and_preempted(temperature: float) -> None:
    alone, _ = await outputs(temperature, concurrency=1, cache_bytes=64 << 20)
    batched, preempted = await outputs(temperature, concurrency=NUM_REQUESTS, cache_bytes=64 << 20)
    assert preempted == 0
    assert batched == alone
    squeezed, preempted = await outputs(temperature, concurrency=NUM_REQUESTS, cache_bytes=SMALL_CACHE)
    assert preempted > 0
    assert squeezed == alone
