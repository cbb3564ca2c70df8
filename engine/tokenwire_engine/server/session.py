"""Session: all requests of one peer over one stream.

One message per engine step carries that step's tokens of all of the peer's requests, as columns. While the
peer reads more slowly than the engine computes, steps are put together: several tokens of a slot, in order,
in one message. What waits to be sent is integers only, at most `max_tokens` of each of the peer's live
requests, so that it is bounded by what the peer asked for.

A slot belongs to a request from its submission until its finish event with usage is sent. When the peer
closes its side, its requests run to their end; when the stream breaks, they end with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc

from tokenwire.status import StatusError, invalid_argument, unimplemented
from tokenwire.v1 import engine_pb2, generation_pb2
from tokenwire_engine.scheduler.outputs import ChannelOutput, Finished
from tokenwire_engine.scheduler.request import FinishReason
from tokenwire_engine.server.dispatch import Dispatcher
from tokenwire_engine.server.finish import FINISH_REASONS, internal_error, usage
from tokenwire_engine.server.logprobs import MAX_MESSAGE_LOGPROBS, PendingLogprobs
from tokenwire_engine.server.model import ServedModel
from tokenwire_engine.server.requests import read_request

MAX_MESSAGE_TOKENS = 1 << 16
"""Most tokens in one message, so that a peer's limit on message sizes (4 MiB by default) is never met."""

FinishEvent = engine_pb2.SessionResponse.FinishEvent
Context = grpc.aio.ServicerContext[engine_pb2.SessionRequest, engine_pb2.SessionResponse]


class Sessions:
    """The sessions that are open."""

    def __init__(self) -> None:
        self._ids: set[str] = set()

    def __len__(self) -> int:
        return len(self._ids)

    async def serve(
        self,
        requests: AsyncIterator[engine_pb2.SessionRequest],
        model: ServedModel,
        dispatcher: Dispatcher,
        context: Context,
    ) -> None:
        """Serve one call from its first message to its end.

        Raises:
            StatusError: when the peer breaks the protocol, or the engine stops.
        """
        session_id = await _read_open(requests)
        if session_id in self._ids:
            raise StatusError(
                grpc.StatusCode.ALREADY_EXISTS,
                "open.session_id: is in use by an open session; choose another",
            )
        session = _Session(model, dispatcher)
        reader = asyncio.create_task(session.read(requests))
        self._ids.add(session_id)
        try:
            while not session.is_done:
                await context.write(await session.next_response())
        finally:
            reader.cancel()
            session.close()
            self._ids.remove(session_id)


class _Session:
    """One peer's requests, and what is yet to be sent of them."""

    def __init__(self, model: ServedModel, dispatcher: Dispatcher) -> None:
        self._model = model
        self._dispatcher = dispatcher
        self._channel = dispatcher.open(self)
        self._live: dict[int, str] = {}
        """Request id by slot."""
        self._step = 0
        """Of the message sent last."""
        self._acknowledged = 0
        self._slots: list[int] = []
        self._token_ids: list[int] = []
        self._logprobs = PendingLogprobs()
        self._finished: list[FinishEvent] = []
        self._opened: engine_pb2.SessionResponse.Opened | None = engine_pb2.SessionResponse.Opened()
        self._error: StatusError | None = None
        self._peer_is_done = False
        self._news = asyncio.Event()
        self._news.set()

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to send, and nothing more will come."""
        return self._peer_is_done and not (
            self._live or self._slots or self._logprobs or self._finished or self._error
        )

    def close(self) -> None:
        """The stream is gone, and its requests with it."""
        self._dispatcher.close(self._channel)

    async def read(self, requests: AsyncIterator[engine_pb2.SessionRequest]) -> None:
        """Follow the peer's commands until it has no more."""
        try:
            async for request in requests:
                match request.WhichOneof("command"):
                    case "submit":
                        self._submit(request.submit)
                    case "cancel":
                        if request_id := self._live.get(request.cancel.slot):
                            self._dispatcher.cancel(request_id)
                    case "ack":
                        self._acknowledge(request.ack.step)
                    case "open":
                        raise invalid_argument("open", "the session is open; only its first message opens it")
                    case None:
                        raise invalid_argument("command", "is empty; expected submit, cancel or ack")
        except StatusError as error:
            self.fail(error)
        self._peer_is_done = True
        self._news.set()

    def receive(self, output: ChannelOutput) -> None:
        if self._slots:
            self._slots += output.labels
            self._token_ids += output.token_ids
        else:
            self._slots, self._token_ids = output.labels, output.token_ids
        self._logprobs.receive(output)
        for finished in output.finished:
            del self._live[finished.label]
            self._finished.append(_finish_event(finished))
        self._news.set()

    def fail(self, error: StatusError) -> None:
        self._error = error
        self._news.set()

    async def next_response(self) -> engine_pb2.SessionResponse:
        """All there is (up to `MAX_MESSAGE_TOKENS`), once there is something.

        Raises:
            StatusError: when the session failed.
        """
        await self._news.wait()
        if self._error is not None:
            raise self._error
        self._step += 1
        most = MAX_MESSAGE_LOGPROBS if self._logprobs else MAX_MESSAGE_TOKENS
        response = engine_pb2.SessionResponse(
            step=self._step,
            slots=self._slots[:most],
            token_ids=self._token_ids[:most],
            opened=self._opened,
        )
        self._opened = None
        self._slots = self._slots[most:]
        self._token_ids = self._token_ids[most:]
        if self._logprobs:
            response.logprobs.extend(self._logprobs.take(response.slots))
        if not (self._slots or self._logprobs):
            response.finished.extend(self._finished)
            self._finished.clear()
            self._news.clear()
        return response

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
            self._dispatcher.submit(request)
        except StatusError as error:
            self._refuse(FinishEvent(slot=slot, error=error.to_proto(), usage=generation_pb2.Usage()))
        else:
            self._live[slot] = request.request_id

    def _refuse(self, event: FinishEvent) -> None:
        event.reason = generation_pb2.FINISH_REASON_ERROR
        self._finished.append(event)
        self._news.set()

    def _acknowledge(self, step: int) -> None:
        if step > self._step:
            raise invalid_argument("ack.step", f"is {step}; the latest step sent is {self._step}")
        self._acknowledged = max(self._acknowledged, step)


async def _read_open(requests: AsyncIterator[engine_pb2.SessionRequest]) -> str:
    """The session's id, from the stream's first message."""
    async for request in requests:
        if request.WhichOneof("command") != "open":
            raise invalid_argument("open", "is missing; a session's first message opens it")
        if not request.open.session_id:
            raise invalid_argument("open.session_id", "is empty; expected a random id such as a UUID")
        if request.open.HasField("resume_after_step"):
            raise unimplemented("open.resume_after_step")
        return request.open.session_id
    raise invalid_argument("open", "is missing; the stream ended before its first message")


def _finish_event(finished: Finished) -> FinishEvent:
    failed = finished.reason is FinishReason.ERROR
    return FinishEvent(
        slot=finished.label,
        reason=FINISH_REASONS[finished.reason],
        stop_token_id=finished.stop_token_id,
        usage=usage(finished),
        error=internal_error(finished).to_proto() if failed else None,
    )
