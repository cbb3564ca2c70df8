"""A kernel that fails in the real runner: its step's requests end, and nothing of them is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest

from tests.checkpoints import write_checkpoint
from tests.engine.running import serving
from tokenwire.v1 import engine_pb2_grpc
from tokenwire.v1.engine_pb2 import GenerateRequest, GetLoadRequest
from tokenwire.v1.generation_pb2 import SamplingParams, StopConditions
from tokenwire_engine.runner.executor import Sampling
from tokenwire_engine.runner.load import load_runner
from tokenwire_engine.runner.local import LocalRunner
from tokenwire_engine.scheduler.plan import StepPlan

NUM_REQUESTS = 4
Forward = Callable[[LocalRunner, StepPlan], Sampling]


class Kernels:
    """What computes a step's rows; it can be made to fail once.

    Attributes:
        steps_to_fail: how many steps of `NUM_REQUESTS` decodes there are up to the one that fails; 0: none.
    """

    def __init__(self) -> None:
        self.steps_to_fail = 0

    def breaking(self, forward: Forward) -> Forward:
        def fail_or_forward(runner: LocalRunner, plan: StepPlan) -> Sampling:
            if self.steps_to_fail and plan.num_rows == plan.num_tokens == NUM_REQUESTS:
                self.steps_to_fail -= 1
                if self.steps_to_fail == 0:
                    raise RuntimeError("CUDA out of memory, or whatever it was")
            return forward(runner, plan)

        return fail_or_forward


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    kernels = Kernels()
    monkeypatch.setattr(LocalRunner, "_forward", kernels.breaking(LocalRunner._forward))
    return kernels


@pytest.fixture
async def stub(tmp_path: Path, kernels: Kernels) -> AsyncIterator[engine_pb2_grpc.EngineAsyncStub]:
    checkpoint = str(write_checkpoint(tmp_path))
    async with serving(load_runner, device="cpu", model=checkpoint, kv_cache_memory=4 << 20) as stub:
        yield stub


def request(number: int) -> GenerateRequest:
    return GenerateRequest(
        prompt_token_ids=[10 + number] * 20,
        sampling=SamplingParams(temperature=0.8, seed=number, repetition_penalty=1.2),
        stop=StopConditions(max_tokens=150, ignore_eos=True),
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


async def test_a_kernel_error_ends_the_requests_of_its_step_and_the_next_are_served(
    stub: engine_pb2_grpc.EngineAsyncStub, kernels: Kernels
) -> None:
    undisturbed = [await generate(stub, number) for number in range(NUM_REQUESTS)]
    assert all(error is None for _, error in undisturbed)

    kernels.steps_to_fail = 10
    ended = await asyncio.gather(*(generate(stub, number) for number in range(NUM_REQUESTS)))
    for (tokens, error), (expected, _) in zip(ended, undisturbed, strict=True):
        assert error is not None
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "CUDA out of memory" in error.details()
        assert 10 <= len(tokens) < len(expected)
        assert tokens == expected[: len(tokens)]
    after = await stub.GetLoad(GetLoadRequest())
    assert after.free_kv_blocks == after.total_kv_blocks
    assert after.running_requests == after.waiting_requests == 0

    assert await asyncio.gather(*(generate(stub, number) for number in range(NUM_REQUESTS))) == undisturbed
