"""A kernel that fails in the real runner: its step's requests end, and nothing of them is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.checkpoints import write_checkpoint
from tokenwire.v1 import engine_pb2, engine_pb2_grpc
from tokenwire.v1.engine_pb2 import GenerateRequest, GetLoadRequest
from tokenwire.v1.generation_pb2 import SamplingParams, StopConditions
from tokenwire_engine.config import EngineConfig
from tokenwire_engine.models.decoder import LayeredDecoder
from tokenwire_engine.models.host_decoder import HostDecoder
from tokenwire_engine.runner.load import load_runner
from tokenwire_engine.server.server import EngineServer
from tokenwire_kernels.cpu import PreparedStep


class Kernels:
    """Those below the decoder; the test breaks them for one step."""

    def __init__(self) -> None:
        self.fail_next = False

    def breaking(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def fail_or_forward(*arguments: Any, **options: Any) -> Any:
            if self.fail_next:
                self.fail_next = False
                raise RuntimeError("CUDA out of memory, or whatever it was")
            return forward(*arguments, **options)

        return fail_or_forward


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    kernels = Kernels()
    for decoder in (LayeredDecoder, HostDecoder):
        monkeypatch.setattr(decoder, "forward", kernels.breaking(decoder.forward))
    monkeypatch.setattr(PreparedStep, "run", kernels.breaking(PreparedStep.run))
    return kernels


@pytest.fixture
async def stub(tmp_path: Path, kernels: Kernels) -> AsyncIterator[engine_pb2_grpc.EngineAsyncStub]:
    config = EngineConfig(
        model=str(write_checkpoint(tmp_path)), port=0, device="cpu", kv_cache_memory=4 << 20
    )
    server = EngineServer(config, load_runner, lambda *_: None)
    await server.start()
    await server.ready()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield engine_pb2_grpc.EngineStub(channel)
    await server.stop()


def request(number: int) -> GenerateRequest:
    return GenerateRequest(
        prompt_token_ids=[10 + number] * 20,
        sampling=SamplingParams(temperature=0.8, seed=number, repetition_penalty=1.2),
        stop=StopConditions(max_tokens=60, ignore_eos=True),
    )


async def generate(
    stub: engine_pb2_grpc.EngineAsyncStub, number: int
) -> tuple[list[int], grpc.aio.AioRpcError | None]:
    tokens: list[int] = []
    try:
        async for response in stub.Generate(request(number)):
            tokens += response.token_ids
    except grpc.aio.AioRpcError as error:
        return tokens, error
    return tokens, None


async def load(stub: engine_pb2_grpc.EngineAsyncStub) -> engine_pb2.GetLoadResponse:
    return await stub.GetLoad(GetLoadRequest())


async def test_a_kernel_error_ends_the_requests_of_its_step_and_the_next_are_served(
    stub: engine_pb2_grpc.EngineAsyncStub, kernels: Kernels
) -> None:
    undisturbed = [await generate(stub, number) for number in range(4)]
    assert all(error is None for _, error in undisturbed)

    running = [asyncio.create_task(generate(stub, number)) for number in range(4)]
    before = (await load(stub)).generated_tokens
    while (await load(stub)).generated_tokens < before + 40:  # noqa: ASYNC110 - another thread's state
        await asyncio.sleep(0)
    kernels.fail_next = True
    ended = await asyncio.gather(*running)
    for (tokens, error), (expected, _) in zip(ended, undisturbed, strict=True):
        assert error is not None
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "CUDA out of memory" in error.details()
        assert tokens == expected[: len(tokens)]
    after = await load(stub)
    assert after.free_kv_blocks == after.total_kv_blocks
    assert after.running_requests == after.waiting_requests == 0

    assert await asyncio.gather(*(generate(stub, number) for number in range(4))) == undisturbed
