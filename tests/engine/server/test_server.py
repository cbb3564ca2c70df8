"""The server's life: loading, serving, stopping, failing."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.engine.hash_runner import HashRunner
from tests.engine.running import Engine, session_channel, session_target
from tests.engine.server.peers import at_port_and_socket
from tests.patience import PATIENCE_S
from tokenwire.status import StatusError
from tokenwire.v1 import engine_pb2, engine_pb2_grpc
from tokenwire.v1.engine_pb2 import GenerateRequest, SessionRequest
from tokenwire_engine.config import EngineConfig
from tokenwire_engine.runner.base import DeviceLostError, Progress
from tokenwire_engine.server.server import SERVICE, EngineServer

ServingStatus = health_pb2.HealthCheckResponse.ServingStatus


async def health(channel: grpc.aio.Channel, service: str = "") -> str:
    stub = health_pb2_grpc.HealthStub(channel)
    response = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return ServingStatus.Name(response.status)


class Loading:
    """A server whose model takes as long to load as the test likes."""

    def __init__(self, session_socket: str | None = None) -> None:
        self.may_load = threading.Event()
        self.error: Exception | None = None
        self.runner = HashRunner()
        config = EngineConfig(port=0, session_socket=session_socket)
        self.server = EngineServer(config, self._load, lambda *_: None)

    def _load(self, config: EngineConfig, progress: Progress) -> HashRunner:
        self.may_load.wait()
        if self.error is not None:
            raise self.error
        return self.runner

    async def start(self) -> None:
        await self.server.start()
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.server.port}")
        self.stub = engine_pb2_grpc.EngineStub(self.channel)
        self.session_channel = session_channel(session_target(self.server))
        self.session_stub = engine_pb2_grpc.EngineStub(self.session_channel)

    async def close(self) -> None:
        await self.session_channel.close()
        await self.channel.close()


@pytest.fixture
async def loading(session_socket: str | None) -> AsyncIterator[Loading]:
    loading = Loading(session_socket)
    await loading.start()
    yield loading
    loading.may_load.set()
    await loading.close()
    assert await loading.server.stop()


async def test_health_turns_serving_once_the_model_is_loaded(loading: Loading) -> None:
    for service in ("", SERVICE):
        assert await health(loading.channel, service) == "NOT_SERVING"
    loading.may_load.set()
    await loading.server.ready()
    for service in ("", SERVICE):
        assert await health(loading.channel, service) == "SERVING"


async def test_calls_are_unavailable_with_a_time_to_retry_while_the_model_loads(loading: Loading) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await loading.stub.GetModel(engine_pb2.GetModelRequest())
    error = StatusError.from_call(caught.value)
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert error.retry_after_s == 1.0


@at_port_and_socket
async def test_sessions_are_unavailable_while_the_model_loads(loading: Loading) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await loading.session_stub.Session().read()
    error = StatusError.from_call(caught.value)
    assert (error.code, error.retry_after_s) == (grpc.StatusCode.UNAVAILABLE, 1.0)


async def test_a_model_that_does_not_load_is_a_failure(loading: Loading) -> None:
    loading.error = ValueError("the checkpoint lacks model.norm.weight")
    loading.may_load.set()
    with pytest.raises(ValueError, match=r"lacks model\.norm\.weight"):
        await loading.server.ready()
    assert await health(loading.channel) == "NOT_SERVING"


async def test_stopping_does_not_wait_for_a_model_that_loads() -> None:
    loading = Loading()
    await loading.start()
    async with asyncio.timeout(PATIENCE_S):
        assert not await loading.server.stop()
    loading.may_load.set()
    await loading.close()


@at_port_and_socket
async def test_stopping_ends_calls_with_unavailable(loading: Loading) -> None:
    loading.may_load.set()
    await loading.server.ready()
    loading.runner.hold()
    generate = loading.stub.Generate(GenerateRequest(prompt_token_ids=[1]))
    loading.runner.allow(1)
    await generate.read()
    session = loading.session_stub.Session()
    await session.write(SessionRequest(open=SessionRequest.Open(session_id="a")))
    await session.read()
    stopping = asyncio.create_task(loading.server.stop())
    for call in (generate, session):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_to_the_end(call)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    loading.runner.resume()
    assert await stopping


async def read_to_the_end(call: grpc.aio.UnaryStreamCall[object, object]) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_a_lost_device_fails_the_server(engine: Engine) -> None:
    engine.runner.fail_next = DeviceLostError("the card is gone")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_to_the_end(engine.stub.Generate(GenerateRequest(prompt_token_ids=[1])))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert isinstance(await engine.server.failed, DeviceLostError)
    assert await health(engine.channel) == "NOT_SERVING"


async def test_a_port_in_use_is_an_error_that_names_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = EngineServer(EngineConfig(port=port), lambda *_: HashRunner(), lambda *_: None)
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            await server.start()


async def test_a_socket_that_cannot_be_is_an_error_that_names_it() -> None:
    config = EngineConfig(port=0, session_socket="/nowhere/sessions")
    server = EngineServer(config, lambda *_: HashRunner(), lambda *_: None)
    with pytest.raises(OSError, match="cannot listen on /nowhere/sessions: No such file or directory"):
        await server.start()


async def test_reflection_lists_the_services(engine: Engine) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(engine.channel)
    call = stub.ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    response = await call.read()
    names = {service.name for service in response.list_services_response.service}
    assert {"tokenwire.v1.Engine", "tokenwire.v1.EngineAdmin", "grpc.health.v1.Health"} <= names
    call.cancel()
