"""One session: all requests of one peer over one stream at a time.

One message carries the tokens of all of the peer's requests in one engine step, or in a few short ones, as
columns (see `outbox.py` for how they are gathered and kept). A slot belongs to a request from its submission
until its finish event with usage is sent. A peer that does not keep up, or is away, holds up nobody: past a
bound on what is held for it, its requests are set aside.
"""

from __future__ import annotations

import asyncio

import grpc

from tokenwire.duplex.served_call import BrokenCallError, ServedCall
from tokenwire.status import StatusError, invalid_argument, resource_exhausted
from tokenwire.v1 import engine_pb2, generation_pb2
from tokenwire.wakeup import Wakeup
from tokenwire_engine.scheduler.outputs import ChannelOutput, Finished
from tokenwire_engine.scheduler.request import Request
from tokenwire_engine.server.dispatch import Dispatcher
from tokenwire_engine.server.finish import FINISH_REASONS, error_of, usage
from tokenwire_engine.server.model import ServedModel
from tokenwire_engine.server.outbox import FinishEvent, Outbox
from tokenwire_engine.server.requests import add_grammar, read_request

MAX_HELD = 1 << 18
"""What is held for a peer before its requests are set aside, in tokens; they go on at half of it."""
MAX_REFUSED = 16 * MAX_HELD
"""What is held for a peer before the next refusal ends its session: they cost no request, but memory."""

Stream = ServedCall[engine_pb2.SessionRequest, engine_pb2.SessionResponse]


class Session:
    """One peer's requests, and what is held of their output; `tokenwire.duplex.sessions` has its streams."""

    def __init__(self, grace_ms: int, model: ServedModel, dispatcher: Dispatcher) -> None:
        self._grace_ms = grace_ms
        self._outbox = Outbox(keep=grace_ms > 0)
        self._writer: asyncio.Task[None] | None = None
        """The task that sends to the present stream, or the last one."""
        self._reader: asyncio.Task[None] | None = None
        self._model = model
        self._dispatcher = dispatcher
        self._channel = dispatcher.open(self)
        self._live: dict[int, str] = {}
        """Request id by slot."""
        self._compiling: dict[int, asyncio.Task[None]] = {}
        """By slot: of those requests, the ones that the core will get once their constraint is compiled."""
        self._num_commands = 0
        self._is_set_aside = False
        self._error: StatusError | None = None
        self._peer_is_done = False
        self._news = Wakeup()

    def rewind(self, step: int) -> None:
        """Begin the next stream behind a step, which is acknowledged with that.

        Raises:
            StatusError: the peer cannot have received the step, or has acknowledged a later one.
        """
        try:
            self._outbox.rewind(step)
        except ValueError as error:
            raise invalid_argument("open.resume_after_step", str(error)) from None

    def attach(self, stream: Stream, after_step: int) -> asyncio.Task[None]:
        """Serve a stream from now on, behind a step that the session was rewound to; the task that sends to
        it. An older stream's task is cancelled: not one more command of that stream is taken in."""
        is_resumed = self._writer is not None
        self.detach()
        self._peer_is_done = False
        opened = engine_pb2.SessionResponse.Opened(
            grace_period_ms=self._grace_ms, resumed=is_resumed, commands_received=self._num_commands
        )
        first = engine_pb2.SessionResponse(step=after_step, opened=opened)
        self._reader = asyncio.create_task(self._read(stream))
        self._writer = asyncio.create_task(self._write(stream, first))
        self._writer.add_done_callback(_retrieve)
        self._balance()
        return self._writer

    def detach(self) -> None:
        """The stream, if there is one, is served no more."""
        for task in (self._reader, self._writer):
            if task is not None:
                task.cancel()

    def close(self) -> None:
        """Nobody will come back: cancel the requests."""
        for task in self._compiling.values():
            task.cancel()
        self._dispatcher.close(self._channel)
        if self._is_set_aside:
            self._dispatcher.resume(self._channel)

    @property
    def is_flushed(self) -> bool:
        return self._outbox.is_empty or self._writer is None or self._writer.done()

    def receive(self, output: ChannelOutput) -> None:
        self._outbox.add(output)
        for finished in output.finished:
            if finished.is_last:
                del self._live[finished.label]
            self._outbox.add_end(_finish_event(finished))
        self._balance()
        self._news.set()

    def fail(self, error: StatusError) -> None:
        self._error = error
        self._news.set()

    async def _write(self, stream: Stream, first: engine_pb2.SessionResponse) -> None:
        """Send what there is, as it comes, until nothing is left and nothing more will come.

        Raises:
            StatusError: when the session failed.
            BrokenCallError: when the stream broke.
        """
        await stream.write(first)
        while True:
            if self._error is not None:
                raise self._error
            if not self._outbox.is_empty:
                message = self._outbox.take(self._num_commands)
                self._balance()
                await stream.write(message)
            elif self._peer_is_done and not self._live:
                return
            else:
                await self._news.wait()

    async def _read(self, stream: Stream) -> None:
        """Follow the peer's commands until it has no more."""
        try:
            while (command := await stream.read()) is not None:
                match command.WhichOneof("command"):
                    case "submit":
                        self._num_commands += 1
                        self._submit(command.submit)
                    case "cancel":
                        self._num_commands += 1
                        self._cancel(command.cancel.slot)
                    case "ack":
                        self._acknowledge(command.ack.step)
                    case "open":
                        raise invalid_argument("open", "the session is open; only its first message opens it")
                    case None:
                        raise invalid_argument("command", "is empty; expected submit, cancel or ack")
        except StatusError as error:
            self.fail(error)
        except BrokenCallError:
            return  # the call itself is told
        self._peer_is_done = True
        self._news.set()

    def _submit(self, submit: engine_pb2.SessionRequest.Submit) -> None:
        """Start a request; one that is refused ends at once, and the session goes on."""
        slot = submit.slot
        if slot in self._live:
            error = StatusError(
                grpc.StatusCode.ALREADY_EXISTS,
                f"submit.slot: {slot} is taken by a live request, which goes on; wait for its last finish "
                "event, or use another slot",
            )
            # Without usage: the slot is not free.
            self._refuse(FinishEvent(slot=slot, error=error.to_proto()))
            return
        try:
            request = read_request(submit.request, self._model, self._channel, slot)
            if submit.request.HasField("constraint"):
                self._compiling[slot] = asyncio.create_task(self._compile(request, submit.request))
            else:
                self._dispatcher.submit(request, submit.request.continued_request_id)
        except StatusError as error:
            self._refuse(FinishEvent(slot=slot, error=error.to_proto(), usage=generation_pb2.Usage()))
        else:
            self._live[slot] = request.request_id

    async def _compile(self, request: Request, proto: engine_pb2.GenerateRequest) -> None:
        """Start a request once its constraint is compiled."""
        slot = request.label
        try:
            await add_grammar(request, proto, self._model)
            del self._compiling[slot]
            self._dispatcher.submit(request, proto.continued_request_id)
        except StatusError as error:
            self._compiling.pop(slot, None)
            del self._live[slot]
            try:
                self._refuse(FinishEvent(slot=slot, error=error.to_proto(), usage=generation_pb2.Usage()))
            except StatusError as too_many:
                self.fail(too_many)

    def _cancel(self, slot: int) -> None:
        """End a request; one that has ended already is left alone."""
        if (compiling := self._compiling.pop(slot, None)) is not None:
            compiling.cancel()
            del self._live[slot]
            usage = generation_pb2.Usage()
            self._outbox.add_end(
                FinishEvent(slot=slot, reason=generation_pb2.FINISH_REASON_CANCELLED, usage=usage)
            )
            self._news.set()
        elif request_id := self._live.get(slot):
            self._dispatcher.cancel(request_id)

    def _refuse(self, event: FinishEvent) -> None:
        if self._outbox.size > MAX_REFUSED:
            raise resource_exhausted("too many refused requests wait to be read; read and acknowledge faster")
        event.reason = generation_pb2.FINISH_REASON_ERROR
        self._outbox.add_end(event)
        self._balance()
        self._news.set()

    def _acknowledge(self, step: int) -> None:
        try:
            self._outbox.acknowledge(step)
        except ValueError as error:
            raise invalid_argument("ack.step", str(error)) from None
        self._balance()

    def _balance(self) -> None:
        """Set the requests aside when too much is held for the peer, and let them go on when it caught up."""
        if not self._is_set_aside and self._outbox.size > MAX_HELD:
            self._is_set_aside = True
            self._dispatcher.hold(self._channel)
        elif self._is_set_aside and self._outbox.size <= MAX_HELD // 2:
            self._is_set_aside = False
            self._dispatcher.resume(self._channel)


def _retrieve(task: asyncio.Task[None]) -> None:
    """A call that was cancelled does not ask for its task's error; asyncio need not complain of that."""
    if not task.cancelled():
        task.exception()


def _finish_event(finished: Finished) -> FinishEvent:
    error = error_of(finished)
    return FinishEvent(
        slot=finished.label,
        sample_index=finished.sample_index,
        reason=FINISH_REASONS[finished.reason],
        stop_token_id=finished.stop_token_id,
        usage=usage(finished),
        error=None if error is None else error.to_proto(),
    )
