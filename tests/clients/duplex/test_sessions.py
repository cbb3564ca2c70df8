"""Sessions as both of their servers hold them: streams come and go, and a session waits for the next one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import grpc
import pytest

from tests.patience import until
from tokenwire.duplex.served_call import BrokenCallError, ServedCall
from tokenwire.duplex.sessions import Sessions
from tokenwire.status import StatusError, invalid_argument
from tokenwire.v1 import engine_pb2

Request, Response = engine_pb2.SessionRequest, engine_pb2.SessionResponse
Stream = ServedCall[Request, Response]


class Call:
    """A stream whose peer says one thing and hangs up when it is told to."""

    def __init__(self, **opening: object) -> None:
        self.opening = Request(open=Request.Open(session_id="a", **opening))  # type: ignore[arg-type]
        self.has_hung_up = asyncio.Event()

    async def read(self) -> Request | None:
        return self.opening

    async def write(self, message: Response) -> None:
        await self.has_hung_up.wait()
        raise BrokenCallError("it hung up")


@dataclass
class Held:
    """A session that writes to its stream, and notes what happens to it."""

    grace_ms: int
    events: list[str] = field(default_factory=list)
    error: StatusError | None = None

    def rewind(self, step: int) -> None:
        if step:
            raise invalid_argument("open.resume_after_step", "is too much")
        self.events.append("rewound")

    def attach(self, stream: Stream, after_step: int) -> asyncio.Task[None]:
        self.detach()
        self.serving = asyncio.create_task(self._serve(stream))
        return self.serving

    def detach(self) -> None:
        if hasattr(self, "serving"):
            self.serving.cancel()

    def close(self) -> None:
        self.events.append("closed")

    async def _serve(self, stream: Stream) -> None:
        if self.error is not None:
            raise self.error
        await stream.write(Response())


class Server:
    """Sessions, and those that were made."""

    def __init__(self, max_grace_ms: int = 60_000) -> None:
        self.made: list[Held] = []
        self.sessions: Sessions[Stream] = Sessions(max_grace_ms, self._make)

    def _make(self, grace_ms: int) -> Held:
        self.made.append(Held(grace_ms))
        return self.made[-1]

    async def begin(self, call: Call) -> asyncio.Task[None]:
        """Serve a call; what does, once the session has the stream."""
        serving = asyncio.create_task(self.sessions.serve(call))
        await asyncio.sleep(0.01)
        return serving


async def code_of(serving: asyncio.Task[None]) -> grpc.StatusCode:
    with pytest.raises(StatusError) as caught:
        await serving
    return caught.value.code


async def test_a_session_that_is_resumed_in_time_goes_on_with_the_newer_stream() -> None:
    server = Server()
    first, second = Call(grace_period_ms=50), Call(resume_after_step=0)
    serving = await server.begin(first)
    first.has_hung_up.set()
    await serving
    again = await server.begin(second)
    await asyncio.sleep(0.1)
    assert server.made[0].events == ["rewound"]
    second.has_hung_up.set()
    await again
    await until(lambda: server.made[0].events == ["rewound", "closed"])
    assert len(server.sessions) == 0


async def test_a_newer_stream_ends_the_older_one() -> None:
    server = Server()
    older = await server.begin(Call(grace_period_ms=50))
    newer = await server.begin(Call(resume_after_step=0))
    assert await code_of(older) is grpc.StatusCode.ABORTED
    assert not newer.done()
    newer.cancel()


@pytest.mark.parametrize(("asked_ms", "given_ms"), [(50, 50), (10_000, 100), (0, 0)])
async def test_the_grace_period_is_the_shorter_of_what_is_asked_for_and_given(
    asked_ms: int, given_ms: int
) -> None:
    server = Server(max_grace_ms=100)
    call = Call(grace_period_ms=asked_ms)
    serving = await server.begin(call)
    assert server.made[0].grace_ms == given_ms
    call.has_hung_up.set()
    await serving
    assert len(server.sessions) == (given_ms > 0)
    if not given_ms:
        resumed = await server.begin(Call(resume_after_step=0))
        assert await code_of(resumed) is grpc.StatusCode.NOT_FOUND


async def test_a_session_that_fails_is_forgotten_at_once() -> None:
    server = Server()
    call = Call(grace_period_ms=60_000)
    serving = await server.begin(call)
    call.has_hung_up.set()
    await serving
    server.made[0].error = StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, "it reads too slowly")
    again = await server.begin(Call(resume_after_step=0))
    assert await code_of(again) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (len(server.sessions), server.made[0].events[-1]) == (0, "closed")


async def test_what_cannot_be_resumed_leaves_the_session_as_it_is() -> None:
    server = Server()
    serving = await server.begin(Call(grace_period_ms=50))
    refused = await server.begin(Call(resume_after_step=7))
    assert await code_of(refused) is grpc.StatusCode.INVALID_ARGUMENT
    second = await server.begin(Call(grace_period_ms=50))
    assert await code_of(second) is grpc.StatusCode.ALREADY_EXISTS
    assert not serving.done()
    serving.cancel()
