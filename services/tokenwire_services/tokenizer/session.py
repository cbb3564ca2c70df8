"""Session: all requests of one peer over one stream.

All text that one engine step brings leaves in one message, as columns. Text of a request that asked for
token IDs comes in `details`, together with them; tool calls come in `details`; all other text in the
columns. Nothing outlives the stream: when it ends, its requests are cancelled at the engine at once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc

from tokenwire.status import StatusError, invalid_argument, not_found
from tokenwire.v1 import generation_pb2, tokenizer_pb2
from tokenwire_services.tokenizer.config import TokenizerConfig
from tokenwire_services.tokenizer.engine_link import EngineLink
from tokenwire_services.tokenizer.outbox import Deltas, Finish, Outbox
from tokenwire_services.tokenizer.requests import Running, start

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[
    tokenizer_pb2.TokenizerSessionRequest, tokenizer_pb2.TokenizerSessionResponse
]
FinishEvent = tokenizer_pb2.TokenizerSessionResponse.FinishEvent


class PeerSession:
    """One peer's session."""

    def __init__(self, link: EngineLink, config: TokenizerConfig, context: Context) -> None:
        self._link = link
        self._config = config
        self._context = context
        self._outbox = Outbox(config.max_backlog_bytes)
        self._requests: dict[int, asyncio.Task[None] | Running] = {}
        """By the peer's slot: being prepared, or at the engine."""

    async def serve(self) -> None:
        """Serve until the peer ends the stream.

        Raises:
            StatusError: the peer does not follow the protocol, or reads too slowly.
        """
        await self._open()
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._read()),
            asyncio.create_task(self._write()),
            asyncio.create_task(self._outbox.overflowed.wait()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if self._outbox.overflowed.is_set():
                raise StatusError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"more than {self._config.max_backlog_bytes} bytes of output wait; read faster",
                )
        finally:
            for task in tasks:
                task.cancel()
            for request in list(self._requests.values()):
                request.cancel()

    async def _open(self) -> None:
        message = await self._context.read()
        if (
            not isinstance(message, tokenizer_pb2.TokenizerSessionRequest)
            or message.WhichOneof("command") != "open"
        ):
            raise invalid_argument("open", "missing; a session's first message must be open")
        if message.open.HasField("resume_after_step"):
            raise not_found(
                "session",
                message.open.session_id,
                "the session is not held any more; open one without resuming",
            )
        opened = tokenizer_pb2.TokenizerSessionResponse.Opened(grace_period_ms=0, resumed=False)
        await self._context.write(tokenizer_pb2.TokenizerSessionResponse(step=1, opened=opened))

    async def _read(self) -> None:
        """Obey the peer until it ends its side of the stream."""
        while isinstance(message := await self._context.read(), tokenizer_pb2.TokenizerSessionRequest):
            match message.WhichOneof("command"):
                case "submit":
                    self._submit(message.submit.slot, message.submit.request)
                case "cancel":
                    self._cancel(message.cancel.slot)
                case "ack":
                    pass  # nothing is kept for a stream that broke
                case "open":
                    raise invalid_argument(
                        "open", "sent twice; a session is opened by its first message only"
                    )
                case _:
                    raise invalid_argument("command", "missing; expected submit, cancel or ack")

    def _submit(self, slot: int, request: tokenizer_pb2.TokenizerGenerateRequest) -> None:
        if slot in self._requests:
            raise invalid_argument("submit.slot", f"slot {slot} is in use until its finish event")
        self._requests[slot] = asyncio.create_task(self._start(slot, request))

    async def _start(self, slot: int, request: tokenizer_pb2.TokenizerGenerateRequest) -> None:
        try:
            self._requests[slot] = await start(self._link, self._config, request, slot, self._outbox)
        except StatusError as error:
            self._fail(slot, error)
        except Exception:
            log.exception("a request could not be started")
            self._fail(slot, StatusError(grpc.StatusCode.INTERNAL, "the request could not be started"))

    def _fail(self, slot: int, error: StatusError) -> None:
        usage = generation_pb2.Usage()
        self._outbox.finish(slot, Finish(generation_pb2.FINISH_REASON_ERROR, usage, error=error))

    def _cancel(self, slot: int) -> None:
        request = self._requests.pop(slot, None)
        if isinstance(request, Running):
            request.cancel()
        elif request is not None and request.cancel():  # else its failure is already in the outbox
            usage = generation_pb2.Usage()
            self._outbox.finish(slot, Finish(generation_pb2.FINISH_REASON_CANCELLED, usage))

    async def _write(self) -> None:
        """Send what the outbox holds, one message at a time."""
        step = 1
        while True:
            deltas = await self._outbox.take()
            step += 1
            for slot, finish in deltas.finished:
                if finish.usage is not None:
                    self._requests.pop(slot, None)  # before the peer can know that the slot is free
            await self._context.write(session_response(step, deltas))


def session_response(step: int, deltas: Deltas) -> tokenizer_pb2.TokenizerSessionResponse:
    """Deltas as one message."""
    response = tokenizer_pb2.TokenizerSessionResponse(
        step=step, slots=deltas.slots, text_deltas=deltas.texts, token_counts=deltas.token_counts
    )
    for slot, detail in deltas.details:
        response.details.add(slot=slot, response=detail)
    for slot, finish in deltas.finished:
        response.finished.append(
            FinishEvent(
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
