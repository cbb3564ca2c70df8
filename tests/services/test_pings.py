"""Both gRPC servers let an idle peer ask, as often as it likes, whether they are still there."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from h2.connection import H2Connection
from h2.events import ConnectionTerminated, Event, PingAckReceived

from tests.engine.running import starting_engines
from tests.patience import PATIENCE_S
from tests.ports import free_ports
from tests.services.tokenizer.conftest import start_service


async def test_an_engine_answers_every_ping() -> None:
    async with starting_engines() as start:
        await assert_answers_pings((await start()).port)


async def test_a_tokenizer_service_answers_every_ping() -> None:
    nobody = SimpleNamespace(port=free_ports(1)[0])  # a service waits for its engine, and serves meanwhile
    async for service in start_service(nobody, wait=False):
        await assert_answers_pings(service.port)


async def assert_answers_pings(port: int, count: int = 10) -> None:
    """gRPC's own servers end a connection that has sent three pings too many."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = H2Connection()
    connection.initiate_connection()
    answered = 0
    async with asyncio.timeout(PATIENCE_S):
        while answered < count:
            connection.ping(answered.to_bytes(8, "big"))
            writer.write(connection.data_to_send())
            events: list[Event] = []
            while not any(isinstance(event, PingAckReceived) for event in events):
                events += connection.receive_data(await reader.read(1 << 16))
                assert not any(isinstance(event, ConnectionTerminated) for event in events)
            answered += 1
    writer.close()
