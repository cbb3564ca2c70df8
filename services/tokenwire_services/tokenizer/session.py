"""One session: all requests of one peer over one stream at a time.

All text that one engine step brings leaves in one message, as columns. What a request asked for beyond plain
text comes in `details`. Messages are kept until they are acknowledged, for a stream that resumes the session.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

import grpc

from tokenwire.duplex.served_call import ServedCall
from tokenwire.status import StatusError, invalid_argument, unavailable
from tokenwire.v1 import generation_pb2, tokenizer_pb2
from tokenwire_services.tokenizer.config import TokenizerConfig
from tokenwire_services.tokenizer.engines import Engines
from tokenwire_services.tokenizer.outbox import Deltas, Finish, Outbox
from tokenwire_services.tokenizer.requests import Running, start, start_at_once

log = logging.getLogger(__name__)

Request = tokenizer_pb2.TokenizerSessionRequest
Response = tokenizer_pb2.TokenizerSessionResponse
Stream = ServedCall[Request, Response]


class Session:
    """One peer's requests, and what is held of their output; `tokenwire.duplex.sessions` has its streams."""

    def __init__(
        self, engines: Engines, config: TokenizerConfig, grace_ms: int, ended: asyncio.Event
    ) -> None:
        """`ended` is set when all sessions are to end."""
        self._grace_ms = grace_ms
        self._stream: Stream | None = None
        """The present one, whose commands are obeyed."""
        self._serving: asyncio.Task[None] | None = None
        """The task that serves the present stream, or the last one."""
        self._engines = engines
        self._config = config
        self._ended = ended
        self._outbox = Outbox(config.max_backlog_bytes)
        self._requests: dict[int, asyncio.Task[None] | Running | None] = {}
        """By the peer's slot: being prepared, or at the engine; None where that failed at once."""
        self._num_commands = 0
        self._step = 0
        """Of the message made last."""
        self._acknowledged = 0
        self._kept: deque[tuple[Response, int]] = deque()
        """Messages that were not acknowledged, with sizes; the present stream has the first `_num_sent`."""
        self._num_sent = 0
        self._kept_bytes = 0

    def attach(self, stream: Stream, after_step: int) -> asyncio.Task[None]:
        """Serve a stream from now on; the task that does. An older stream's is cancelled."""
        is_resumed = self._serving is not None
        self.detach()
        opened = Response.Opened(
            grace_period_ms=self._grace_ms, resumed=is_resumed, commands_received=self._num_commands
        )
        self._stream = stream
        self._serving = asyncio.create_task(self._serve(stream, Response(step=after_step, opened=opened)))
        return self._serving

    def detach(self) -> None:
        """The stream, if there is one, is served no more."""
        self._stream = None
        if self._serving is not None:
            self._serving.cancel()

    def close(self) -> None:
        """Nobody will come back: cancel the requests."""
        for request in list(self._requests.values()):
            if request is not None:
                request.cancel()

    def rewind(self, step: int) -> None:
        """Begin a new stream behind a step, which is acknowledged with that.

        Raises:
            StatusError: the peer cannot have received the step, or has acknowledged a later one.
        """
        if not self._acknowledged <= step <= self._step:
            problem = f"is {step}; steps {self._acknowledged} to {self._step} are held"
            raise invalid_argument("open.resume_after_step", problem)
        self._acknowledge(step)
        self._num_sent = 0

    async def _serve(self, stream: Stream, first: Response) -> None:
        """Serve a stream until its peer has no more commands.

        Raises:
            StatusError: the peer does not follow the protocol, or reads too slowly.
            BrokenCallError: the stream broke.
        """
        # Before anything can go wrong: a call cannot be aborted while its first message is being written.
        await stream.write(first)
        tasks: list[asyncio.Task[None]] = [
            asyncio.create_task(self._read(stream)),
            asyncio.create_task(self._write(stream)),
            asyncio.create_task(self._watch_backlog()),
            asyncio.create_task(self._watch_end()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()

    async def _read(self, stream: Stream) -> None:
        """Obey the peer until it ends its side of the stream."""

        def obey(command: Request) -> None:
            if stream is self._stream:
                self._obey(command)

        await stream.each(obey)

    def _obey(self, message: Request) -> None:
        match message.WhichOneof("command"):
            case "submit":
                self._num_commands += 1
                self._submit(message.submit.slot, message.submit.request)
            case "cancel":
                self._num_commands += 1
                self._cancel(message.cancel.slot)
            case "ack":
                self._acknowledge(message.ack.step)
            case "open":
                raise invalid_argument("open", "sent twice; a session is opened by its first message only")
            case _:
                raise invalid_argument("command", "missing; expected submit, cancel or ack")

    def _submit(self, slot: int, request: tokenizer_pb2.TokenizerGenerateRequest) -> None:
        if slot in self._requests:
            raise invalid_argument("submit.slot", f"slot {slot} is in use until its finish event")
        self._requests[slot] = None
        try:
            running = start_at_once(self._engines, self._config, request, slot, self._outbox)
        except Exception as error:
            self._fail(slot, error)
        else:
            self._requests[slot] = running or asyncio.create_task(self._start(slot, request))

    async def _start(self, slot: int, request: tokenizer_pb2.TokenizerGenerateRequest) -> None:
        try:
            self._requests[slot] = await start(self._engines, self._config, request, slot, self._outbox)
        except Exception as error:
            self._fail(slot, error)

    def _fail(self, slot: int, error: Exception) -> None:
        """A request could not be started."""
        if not isinstance(error, StatusError):
            log.error("a request could not be started", exc_info=error)
            error = StatusError(grpc.StatusCode.INTERNAL, "the request could not be started")
        usage = generation_pb2.Usage()
        self._outbox.finish(slot, Finish(generation_pb2.FINISH_REASON_ERROR, usage, error=error))

    def _cancel(self, slot: int) -> None:
        request = self._requests.pop(slot, None)
        if isinstance(request, Running):
            request.cancel()
        elif request is not None and request.cancel():  # else its failure is already in the outbox
            usage = generation_pb2.Usage()
            self._outbox.finish(slot, Finish(generation_pb2.FINISH_REASON_CANCELLED, usage))

    def _acknowledge(self, step: int) -> None:
        """Forget the messages up to a step."""
        self._acknowledged = max(self._acknowledged, min(step, self._step))
        while self._kept and self._kept[0][0].step <= step:
            self._kept_bytes -= self._kept.popleft()[1]
            self._num_sent -= 1
        # A step may be acknowledged that this stream has not been sent again yet.
        self._num_sent = max(self._num_sent, 0)

    async def _write(self, stream: Stream) -> None:
        """Send what is kept, and then what the outbox holds, one message at a time."""
        while True:
            if self._num_sent < len(self._kept):
                message, _ = self._kept[self._num_sent]
                self._num_sent += 1
            else:
                message = self._make(await self._outbox.take())
            await stream.write(message)

    def _make(self, deltas: Deltas) -> Response:
        """Deltas as the session's next message."""
        self._step += 1
        for slot, finish in deltas.finished:
            if finish.usage is not None:
                self._requests.pop(slot, None)  # before the peer can know that the slot is free
        message = session_response(self._step, deltas)
        message.commands_received = self._num_commands
        if self._grace_ms:
            size = message.ByteSize()
            self._kept.append((message, size))
            self._num_sent += 1
            self._kept_bytes += size
            if self._kept_bytes > self._config.max_backlog_bytes:
                self._outbox.overflowed.set()
        return message

    async def _watch_backlog(self) -> None:
        await self._outbox.overflowed.wait()
        raise StatusError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"more than {self._config.max_backlog_bytes} bytes of output wait; read and acknowledge faster",
        )

    async def _watch_end(self) -> None:
        await self._ended.wait()
        raise unavailable("the tokenizer service is shutting down; go on at another process", 0.0)


def session_response(step: int, deltas: Deltas) -> Response:
    """Deltas as one message."""
    response = Response(
        step=step,
        slots=deltas.slots,
        text_deltas=deltas.texts,
        token_counts=deltas.token_counts,
        token_ids=deltas.token_ids,
    )
    for detail in deltas.details:
        response.details.add(slot=detail.slot, response=detail.response, token_ids=detail.token_ids)
    for slot, finish in deltas.finished:
        response.finished.append(
            Response.FinishEvent(
                slot=slot,
                sample_index=finish.sample_index,
                reason=finish.reason,
                stop_string=finish.stop_string,
                stop_token_id=finish.stop_token_id,
                usage=finish.usage,
                error=finish.error.to_proto() if finish.error is not None else None,
            )
        )
    return response
