"""Two engines behind one tokenizer service, each a process of its own; one is killed amid its streams."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest

import tokenwire
from tests.e2e.stack import Command, free_ports, running
from tests.patience import PATIENCE_S, eventually
from tokenwire.v1 import engine_pb2, engine_pb2_grpc

NUM_STREAMS = 32
MAX_TOKENS = 200


@dataclass
class Pair:
    """Two engines, and the service in front of them."""

    engines: dict[int, Command]
    """By port."""
    tokenizer: str

    def loads(self) -> list[engine_pb2.GetLoadResponse]:
        """How busy each living engine is."""
        return [load_of(port) for port, engine in self.engines.items() if engine.process.poll() is None]

    def is_idle(self) -> bool:
        """Whether no living engine has a request, and each has all of its KV blocks back."""
        return all(
            load.running_requests + load.waiting_requests == 0 and load.free_kv_blocks == load.total_kv_blocks
            for load in self.loads()
        )


def load_of(port: int) -> engine_pb2.GetLoadResponse:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = engine_pb2_grpc.EngineStub(channel)
        return stub.GetLoad(engine_pb2.GetLoadRequest(), timeout=PATIENCE_S, wait_for_ready=True)


@pytest.fixture
def pair() -> Iterator[Pair]:
    first, second, port = free_ports(3)

    def engine(port: int):
        return running("engine", f"--port={port}", "--kv-cache-memory=64MiB")

    addresses = [f"--engine=127.0.0.1:{each}" for each in (first, second)]
    with (
        engine(first) as one,
        engine(second) as other,
        running("tokenizer", f"--port={port}", *addresses) as tokenizer,
    ):
        for port_of_one, started in ((first, one), (second, other)):
            started.wait_for(f"127.0.0.1:{port_of_one} is ready after")
        tokenizer.wait_for("connected to the engine", count=2)
        yield Pair({first: one, second: other}, f"127.0.0.1:{port}")


async def test_streams_of_a_killed_engine_go_on_at_the_other_one_token_by_token(pair: Pair) -> None:
    async with tokenwire.AsyncClient(pair.tokenizer, timeout=120) as client:

        async def stream(number: int, begun: asyncio.Queue[int]) -> list[int]:
            sampling = {"temperature": 0.0} if number % 2 else {"temperature": 0.9, "seed": number}
            tokens: list[int] = []
            async for delta in client.stream_generate(
                [5 + number], max_tokens=MAX_TOKENS, ignore_eos=True, return_token_ids=True, **sampling
            ):
                tokens += delta.token_ids
                begun.put_nowait(number)
            return tokens

        async def all_streams(begun: asyncio.Queue[int]) -> list[list[int]]:
            return await asyncio.gather(*(stream(number, begun) for number in range(NUM_STREAMS)))

        undisturbed = await all_streams(asyncio.Queue())
        assert all(len(tokens) == MAX_TOKENS for tokens in undisturbed)
        assert [load.finished_requests for load in pair.loads()] == [NUM_STREAMS / 2] * 2

        begun: asyncio.Queue[int] = asyncio.Queue()
        streams = asyncio.create_task(all_streams(begun))
        for _ in range(NUM_STREAMS * 5):
            await begun.get()
        killed = next(iter(pair.engines.values())).process
        killed.kill()
        killed.wait()
        assert await streams == undisturbed
    (survivor,) = pair.loads()
    assert survivor.finished_requests > NUM_STREAMS  # its own half, twice, and what the killed one had
    eventually(pair.is_idle)


def test_requests_with_a_common_beginning_meet_and_others_spread(pair: Pair) -> None:
    beginning = "Once upon a time there was a small fox who lived at the edge of a wide green forest. " * 4
    with tokenwire.Client(pair.tokenizer, timeout=60) as client:

        def has_heard(count: int) -> bool:
            return sum(load.cached_kv_blocks for load in pair.loads()) >= count

        client.generate(beginning, max_tokens=4)
        eventually(lambda: has_heard(1))
        (holder,) = (port for port in pair.engines if load_of(port).finished_requests)
        for number in range(6):
            client.generate(f"{beginning}{number}", max_tokens=4)
        assert load_of(holder).finished_requests == 7
        assert load_of(holder).prefix_hit_tokens > load_of(holder).prefix_query_tokens / 2
        for number in range(6):
            client.generate(f"{number}", max_tokens=4)
        assert [load.finished_requests for load in pair.loads() if load.finished_requests < 7] == [6]
    eventually(pair.is_idle)
