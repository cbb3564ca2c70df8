"""Real engine servers on free ports, and what tests do with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
from google.rpc import status_pb2

from tests.engine.driver import ignore_progress
from tests.engine.hash_runner import HashRunner
from tests.patience import until
from tokenwire.status import DETAILS_KEY
from tokenwire.v1 import engine_admin_pb2, engine_admin_pb2_grpc, engine_pb2, engine_pb2_grpc
from tokenwire.v1.engine_pb2 import HandedBack
from tokenwire_engine.config import EngineConfig
from tokenwire_engine.server.server import EngineServer, RunnerLoader

Load = engine_pb2.GetLoadResponse


async def start_server(load: RunnerLoader, port: int = 0, **config: object) -> EngineServer:
    """A server that is ready; `config` are fields of `EngineConfig`."""
    server = EngineServer(EngineConfig(port=port, **config), load, ignore_progress)  # type: ignore[arg-type]
    await server.start()
    await server.ready()
    return server


@asynccontextmanager
async def serving(load: RunnerLoader, **config: object) -> AsyncIterator[engine_pb2_grpc.EngineAsyncStub]:
    """The stub of an engine that must leave no block behind."""
    server = await start_server(load, **config)
    async with connected(server) as stub:
        yield stub
        assert is_idle(await stub.GetLoad(engine_pb2.GetLoadRequest()))
    assert await server.stop(), "the core thread did not end"


@asynccontextmanager
async def connected(server: EngineServer) -> AsyncIterator[engine_pb2_grpc.EngineAsyncStub]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield engine_pb2_grpc.EngineStub(channel)


def session_target(server: EngineServer) -> int | str:
    """Where a server's sessions are opened: its port, or the path of its Unix socket if it has one."""
    return server.session_socket or server.port


def session_channel(target: int | str) -> grpc.aio.Channel:
    """A connection of its own to a port, or to a Unix socket."""
    address = f"127.0.0.1:{target}" if isinstance(target, int) else f"unix:{target}"
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 20),
        ("grpc.min_reconnect_backoff_ms", 20),
    ]
    return grpc.aio.insecure_channel(address, options=options)


def is_idle(load: Load) -> bool:
    """Whether no request is left, and every block is free."""
    return load.running_requests + load.waiting_requests == 0 and load.free_kv_blocks == load.total_kv_blocks


class Engine:
    """A running server, stubs that call it, and the hash runner below it."""

    def __init__(self, server: EngineServer, runner: HashRunner) -> None:
        self.server = server
        self.runner = runner
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
        self.stub: engine_pb2_grpc.EngineAsyncStub = engine_pb2_grpc.EngineStub(self.channel)
        self.admin: engine_admin_pb2_grpc.EngineAdminAsyncStub = engine_admin_pb2_grpc.EngineAdminStub(
            self.channel
        )
        self._session_channels: list[grpc.aio.Channel] = []
        self._is_stopped = False

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def session_socket(self) -> str | None:
        return self.server.session_socket

    @property
    def session_target(self) -> int | str:
        """See the function."""
        return session_target(self.server)

    def session_stub(self) -> engine_pb2_grpc.EngineAsyncStub:
        """A stub for one session, on a connection of its own: at the socket, where there is one."""
        self._session_channels.append(session_channel(self.session_target))
        return engine_pb2_grpc.EngineStub(self._session_channels[-1])

    @property
    def is_running(self) -> bool:
        return not self._is_stopped and not self.server.failed.done()

    async def stop(self) -> None:
        """End the server and all of its calls; a second time, nothing is left to do."""
        if self._is_stopped:
            return
        self._is_stopped = True
        for channel in (self.channel, *self._session_channels):
            await channel.close()
        assert await self.server.stop(), "the core thread did not end"

    async def load(self) -> Load:
        return await self.stub.GetLoad(engine_pb2.GetLoadRequest())

    async def drain(self, timeout_ms: int | None = None) -> engine_admin_pb2.DrainResponse:
        return await self.admin.Drain(engine_admin_pb2.DrainRequest(timeout_ms=timeout_ms))

    async def undrain(self) -> engine_admin_pb2.UndrainResponse:
        return await self.admin.Undrain(engine_admin_pb2.UndrainRequest())

    async def until(self, condition: Callable[[Load], bool]) -> None:
        """Wait until the load is as the condition says."""

        async def holds() -> bool:
            return condition(await self.load())

        await until(holds)

    async def step_until(self, condition: Callable[[Load], bool]) -> None:
        """Let a runner that is on hold do step after step until the load is as the condition says."""

        async def holds_or_step() -> bool:
            if condition(await self.load()):
                return True
            self.runner.allow(1)
            return False

        await until(holds_or_step)

    @asynccontextmanager
    async def step_by_step(self) -> AsyncIterator[None]:
        """Meanwhile, a runner that is on hold does a step every few milliseconds; afterwards, all of them."""

        async def step() -> None:
            while True:
                self.runner.allow(1)
                await asyncio.sleep(0.005)

        stepping = asyncio.create_task(step())
        try:
            yield
        finally:
            stepping.cancel()
            self.runner.resume()

    async def until_nobody_listens(self) -> None:
        """Wait until the server knows that all of its peers have gone: the core has been told by then."""
        dispatcher = self.server._get_serving().dispatcher
        await until(lambda: not dispatcher._channels)

    async def until_idle(self) -> None:
        """Wait until nothing runs, nothing waits, and all blocks are free."""
        await self.until(is_idle)


StartEngine = Callable[..., Awaitable[Engine]]
"""`await start(runner, **config)`, both of them optional."""


@asynccontextmanager
async def starting_engines(
    make_runner: Callable[[], HashRunner] = HashRunner, **defaults: object
) -> AsyncIterator[StartEngine]:
    """Starts engines that end with the context, and asserts that they leave no block behind. Whoever holds
    their steps need not wait for the next one's tokens to hear of this one's."""
    engines: list[Engine] = []
    defaults = {"delivery_interval_ms": 0} | defaults

    async def start(runner: HashRunner | None = None, **config: object) -> Engine:
        chosen = runner or make_runner()
        engines.append(Engine(await start_server(lambda *_: chosen, **(defaults | config)), chosen))
        return engines[-1]

    yield start
    for engine in engines:
        engine.runner.resume()
        if engine.is_running:
            await engine.until_idle()
        await engine.stop()


def handed_back(error: grpc.RpcError | None) -> HandedBack:
    """What a draining engine says about a request."""
    assert error is not None
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())[DETAILS_KEY])
    back = HandedBack()
    assert any(detail.Unpack(back) for detail in status.details)
    return back
