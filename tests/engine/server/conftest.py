"""A real gRPC server on a free port, over the hash runner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from tests.engine.hash_runner import HashRunner
from tests.patience import PATIENCE_S
from tokenwire.v1 import engine_pb2, engine_pb2_grpc
from tokenwire_engine.config import EngineConfig
from tokenwire_engine.server.server import EngineServer


class Engine:
    """A running server, a stub that calls it, and the runner below it."""

    def __init__(self, server: EngineServer, runner: HashRunner, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.runner = runner
        self.channel = channel
        self.stub: engine_pb2_grpc.EngineAsyncStub = engine_pb2_grpc.EngineStub(channel)

    async def load(self) -> engine_pb2.GetLoadResponse:
        return await self.stub.GetLoad(engine_pb2.GetLoadRequest())

    async def until(self, condition: Callable[[engine_pb2.GetLoadResponse], bool]) -> None:
        """Wait until the load is as the condition says."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition(await self.load()):  # noqa: ASYNC110 - it is another process's state
                await asyncio.sleep(0.005)

    async def step_until(self, condition: Callable[[engine_pb2.GetLoadResponse], bool]) -> None:
        """Let a runner that is on hold do step after step until the load is as the condition says."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition(await self.load()):
                self.runner.allow(1)
                await asyncio.sleep(0.005)

    @asynccontextmanager
    async def step_by_step(self) -> AsyncIterator[None]:
        """Meanwhile, a runner that is on hold does a step every few milliseconds; afterwards, all of them."""

        async def step() -> None:
            while True:
                self.runner.allow(1)
                await asyncio.sleep(0.005)

        stepping = asyncio.create_task(step())
        yield
        stepping.cancel()
        self.runner.resume()

    async def until_nobody_listens(self) -> None:
        """Wait until the server knows that all of its peers have gone: the core has been told by then."""
        dispatcher = self.server._get_serving().dispatcher
        async with asyncio.timeout(PATIENCE_S):
            while dispatcher._channels:  # noqa: ASYNC110 - calls end when gRPC says so
                await asyncio.sleep(0.005)

    async def until_idle(self) -> None:
        """Wait until nothing runs, nothing waits, and all blocks are free."""
        await self.until(
            lambda load: (
                load.free_kv_blocks == load.total_kv_blocks
                and load.running_requests == load.waiting_requests == 0
            )
        )


StartEngine = Callable[..., Awaitable[Engine]]


@pytest.fixture
async def start_engine() -> AsyncIterator[StartEngine]:
    """Starts engines that end with the test, and asserts that they leave no block behind."""
    engines: list[Engine] = []

    async def start(runner: HashRunner | None = None, max_running: int = 8, **config: object) -> Engine:
        runner = runner or HashRunner()
        options = EngineConfig(port=0, max_running=max_running, **config)  # type: ignore[arg-type]
        server = EngineServer(options, lambda *_: runner, lambda *_: None)
        await server.start()
        await server.ready()
        engine = Engine(server, runner, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}"))
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.runner.resume()
        if not engine.server.failed.done():
            await engine.until_idle()
        await engine.channel.close()
        assert await engine.server.stop(), "the core thread did not end"


@pytest.fixture
async def engine(start_engine: StartEngine) -> Engine:
    return await start_engine()
