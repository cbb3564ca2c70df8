"""Clients of an engine's session: they know what each slot has got, and notice what comes twice, or not."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict

import grpc
import pytest

from tests.engine.running import session_channel
from tests.patience import PATIENCE_S
from tokenwire.status import StatusError
from tokenwire.v1 import engine_pb2_grpc, generation_pb2
from tokenwire.v1.engine_pb2 import GenerateRequest, SessionRequest, SessionResponse

FinishEvent = SessionResponse.FinishEvent

at_port_and_socket = pytest.mark.parametrize("session_socket", ["tcp", "unix"], indirect=True)
"""For tests of sessions: they are served by the gRPC library, or at a Unix socket."""

GRACE_MS = 5_000
REFUSED = 99
"""A slot for a request that says nothing."""
_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
"""What a call ends with when its connection broke; the second one when it was writing."""


class Peer:
    """A client that has one stream.

    Attributes:
        tokens: by slot, of all its requests so far.
        finished: the latest request's end, by slot.
    """

    def __init__(self, stub: engine_pb2_grpc.EngineAsyncStub) -> None:
        self.stub = stub
        self.call = stub.Session(wait_for_ready=True)
        self.tokens: dict[int, list[int]] = defaultdict(list)
        self.finished: dict[int, FinishEvent] = {}
        self.messages: list[SessionResponse] = []

    async def open(self, session_id: str | None = None) -> SessionResponse:
        await self.send(open=SessionRequest.Open(session_id=session_id or str(uuid.uuid4())))
        return await self.read()

    async def send(self, **command: object) -> None:
        await self.call.write(SessionRequest(**command))  # type: ignore[arg-type]

    async def submit(self, slot: int, prompt: list[int], max_tokens: int | None = 8) -> None:
        stop = generation_pb2.StopConditions(max_tokens=max_tokens)
        request = GenerateRequest(prompt_token_ids=prompt, stop=stop)
        await self.send(submit=SessionRequest.Submit(slot=slot, request=request))

    async def cancel(self, slot: int) -> None:
        await self.send(cancel=SessionRequest.Cancel(slot=slot))

    async def read(self) -> SessionResponse:
        """The next message; its columns are added to what each slot got."""
        message = await self._next()
        assert not self.messages or message.step > self.messages[-1].step
        self.messages.append(message)
        for slot, token in zip(message.slots, message.token_ids, strict=True):
            self.tokens[slot].append(token)
        self.finished.update((event.slot, event) for event in message.finished)
        return message

    async def until_taken_in(self) -> None:
        """Return when the engine has taken in all that was sent: what it refuses, it answers at once."""
        await self.submit(REFUSED, [])
        await self.read_until_finished(REFUSED)

    async def read_until_finished(self, *slots: int) -> None:
        while not set(slots) <= set(self.finished):
            await self.read()

    async def error(self) -> StatusError:
        """What the stream ends with."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self._read_to_the_end()
        return StatusError.from_call(caught.value)

    async def _read_to_the_end(self) -> None:
        while await self.call.read() is not grpc.aio.EOF:
            pass

    async def _next(self) -> SessionResponse:
        message = await asyncio.wait_for(self.call.read(), PATIENCE_S)
        assert isinstance(message, SessionResponse), "the stream ended"
        return message


class ResumingPeer(Peer):
    """A client with a connection of its own, and a stream after the other: it keeps its commands until they
    are counted.

    Attributes:
        step: of the message that it got last.
        acknowledges: whether it does so at every step.
    """

    def __init__(self, target: int | str, grace_ms: int = GRACE_MS, acknowledges: bool = True) -> None:
        """`target`: a port, or the path of a Unix socket."""
        self.channel = session_channel(target)
        super().__init__(engine_pb2_grpc.EngineStub(self.channel))
        self.step = 0
        self.acknowledges = acknowledges
        self._opening = SessionRequest.Open(session_id=str(uuid.uuid4()), grace_period_ms=grace_ms)
        self._commands: list[SessionRequest] = []

    async def begin(self) -> SessionResponse.Opened:
        """Open the session."""
        return await self._open()

    async def resume(self) -> SessionResponse.Opened:
        """Go on over a new stream, and send what the engine did not take in."""
        self.call = self.stub.Session(wait_for_ready=True)
        self._opening.resume_after_step = self.step
        return await self._open()

    async def send(self, **command: object) -> None:
        self._commands.append(SessionRequest(**command))  # type: ignore[arg-type]
        await self.call.write(self._commands[-1])

    async def read(self) -> SessionResponse:
        """The next message, taken in and acknowledged."""
        already = set(self.finished)
        message = await super().read()
        assert message.step == self.step + 1, "a message is missing, or came twice"
        assert already.isdisjoint(event.slot for event in message.finished), "a request ended twice"
        self.step = message.step
        if self.acknowledges:
            await self.call.write(SessionRequest(ack=SessionRequest.Ack(step=self.step)))
        return message

    async def read_until_finished(self, *slots: int) -> None:
        """Read, resuming whenever the connection breaks."""
        is_open = True
        while not set(slots) <= set(self.finished):
            try:
                if not is_open:
                    await self.resume()
                    is_open = True
                await self.read()
            except asyncio.InvalidStateError:  # written to when it was broken
                is_open = False
            except grpc.aio.AioRpcError as error:
                if error.code() not in _BROKEN:
                    raise
                is_open = False

    async def _open(self) -> SessionResponse.Opened:
        await self.call.write(SessionRequest(open=self._opening))
        first = await self._next()
        assert first.HasField("opened")
        assert first.step == self.step
        assert first.opened.resumed == self._opening.HasField("resume_after_step")
        for command in self._commands[first.opened.commands_received :]:
            await self.call.write(command)
        return first.opened
