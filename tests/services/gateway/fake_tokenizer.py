"""A tokenizer service without a model: the real protocol on a real port, with answers that a test chooses.

By default the answer to a prompt is the prompt, word by word, one word a step for each request.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from tokenwire.status import StatusError, abort, invalid_argument, not_found
from tokenwire.v1 import generation_pb2, tokenizer_pb2, tokenizer_pb2_grpc

MODEL = "org/fake"
MAX_REQUESTS = 300

Context = grpc.aio.ServicerContext[Any, Any]
Request = tokenizer_pb2.TokenizerGenerateRequest
Response = tokenizer_pb2.TokenizerGenerateResponse
FinishEvent = tokenizer_pb2.TokenizerSessionResponse.FinishEvent
Deltas = Sequence[str | Response]


@dataclass(slots=True)
class Answer:
    """What a request gets: a delta a step (text, or a message in full), then its end."""

    deltas: Deltas = ()
    finish: generation_pb2.FinishReason.ValueType = generation_pb2.FINISH_REASON_STOP
    error: StatusError | None = None
    endless: bool = False
    """The deltas repeat until the request is cancelled; without any, nothing happens until then."""


def prompt_of(request: Request) -> str:
    """The prompt as text; of a chat, its last message."""
    match request.WhichOneof("prompt"):
        case "chat":
            message = request.chat.messages[-1]
            return message.content or "".join(part.text for part in message.content_parts)
        case "token_ids":
            return " ".join(map(str, request.token_ids.ids))
        case _:
            return request.text


def echo(request: Request) -> Answer:
    """The prompt, word by word."""
    if request.model != MODEL:
        return Answer(error=not_found("model", request.model, f"model {request.model!r} is not served here"))
    words = prompt_of(request).split(" ")
    deltas = [words[0], *(" " + word for word in words[1:])]
    limit = request.stop.max_tokens if request.stop.HasField("max_tokens") else len(deltas)
    if limit < len(deltas):
        return Answer(deltas[:limit], generation_pb2.FINISH_REASON_LENGTH)
    return Answer(deltas)


@dataclass(slots=True)
class Live:
    """A request that has not ended."""

    request: Request
    answer: Answer
    sent: int = 0


@dataclass(slots=True)
class FakeTokenizer(tokenizer_pb2_grpc.TokenizerServicer):
    """The service, and what was asked of it."""

    answer: Callable[[Request], Answer] = echo
    step_s: float = 0.0
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    tokenized: list[tokenizer_pb2.TokenizeRequest] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    acked_step: int = 0
    sessions: int = 0
    open_sessions: int = 0
    live: dict[tuple[int, int], Live] = field(default_factory=dict)
    """By session and slot."""
    health: health.HealthServicer = field(default_factory=health.HealthServicer)

    @contextlib.asynccontextmanager
    async def serving(self, session_socket: Path | None = None) -> AsyncIterator[FakeTokenizer]:
        """Serve while the body runs, on the same port every time, and at a Unix socket if one is named."""
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        tokenizer_pb2_grpc.add_TokenizerServicer_to_server(self, server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        await self.set_healthy(True)
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        if session_socket is not None:
            server.add_insecure_port(f"unix:{session_socket}")
        await server.start()
        try:
            yield self
        finally:
            await server.stop(0)

    async def forget(self) -> None:
        """Forget what was asked of it, and answer as by default."""
        self.answer = echo
        self.step_s = 0.0
        self.requests.clear()
        self.tokenized.clear()
        self.cancelled.clear()
        await self.set_healthy(True)

    async def set_healthy(self, healthy: bool) -> None:
        """What the health service says."""
        status = health_pb2.HealthCheckResponse
        await self.health.set("tokenwire.v1.Tokenizer", status.SERVING if healthy else status.NOT_SERVING)

    async def ListModels(
        self, request: tokenizer_pb2.ListModelsRequest, context: Context
    ) -> tokenizer_pb2.ListModelsResponse:
        card = tokenizer_pb2.ListModelsResponse.ModelCard(
            name=MODEL,
            max_model_len=4096,
            created_unix_s=1_700_000_000,
            supports_chat=True,
            root=MODEL,
            max_requests=MAX_REQUESTS,
        )
        return tokenizer_pb2.ListModelsResponse(models=[card])

    async def Tokenize(
        self, request: tokenizer_pb2.TokenizeRequest, context: Context
    ) -> tokenizer_pb2.TokenizeResponse:
        """A token a word: its length."""
        self.tokenized.append(request)
        if request.model not in ("", MODEL):
            await abort(context, not_found("model", request.model, f"model {request.model!r} is not served"))
        words = request.text.split() if request.text else [m.content for m in request.chat.messages]
        names = [word.encode() for word in words] if request.return_token_bytes else []
        return tokenizer_pb2.TokenizeResponse(
            token_ids=map(len, words), max_model_len=4096, token_bytes=names
        )

    async def Detokenize(
        self, request: tokenizer_pb2.DetokenizeRequest, context: Context
    ) -> tokenizer_pb2.DetokenizeResponse:
        if max(request.token_ids) > 1000:
            await abort(context, invalid_argument("token_ids", "token ID 1001 is outside the vocabulary"))
        return tokenizer_pb2.DetokenizeResponse(text=" ".join(map(str, request.token_ids)))

    async def Session(
        self, requests: AsyncIterator[tokenizer_pb2.TokenizerSessionRequest], context: Context
    ) -> AsyncIterator[tokenizer_pb2.TokenizerSessionResponse]:
        self.sessions += 1
        self.open_sessions += 1
        session = _Session(self, self.sessions)
        opened = tokenizer_pb2.TokenizerSessionResponse.Opened()
        yield tokenizer_pb2.TokenizerSessionResponse(step=1, opened=opened)
        reader = asyncio.create_task(session.read(requests))
        step = 1
        try:
            while not reader.done():
                await session.work.wait()
                await asyncio.sleep(self.step_s)
                step += 1
                yield session.step(step)
        finally:
            reader.cancel()
            self.open_sessions -= 1
            for slot in session.slots():
                del self.live[session.number, slot]


@dataclass(slots=True)
class _Session:
    """One gateway's requests."""

    fake: FakeTokenizer
    number: int
    work: asyncio.Event = field(default_factory=asyncio.Event)
    finished: list[FinishEvent] = field(default_factory=list)
    """Ends to report with the next step."""

    def slots(self) -> list[int]:
        return [slot for number, slot in self.fake.live if number == self.number]

    async def read(self, requests: AsyncIterator[tokenizer_pb2.TokenizerSessionRequest]) -> None:
        """Obey."""
        fake = self.fake
        async for message in requests:
            match message.WhichOneof("command"):
                case "submit":
                    request = message.submit.request
                    assert (self.number, message.submit.slot) not in fake.live
                    fake.requests.append(request)
                    # A token a delta, so a request that had some goes on behind them.
                    sent = sum(len(tokens.ids) for tokens in request.resumption.samples)
                    fake.live[self.number, message.submit.slot] = Live(request, fake.answer(request), sent)
                case "cancel":
                    slot = message.cancel.slot
                    live = fake.live.pop((self.number, slot), None)
                    if live is not None:
                        fake.cancelled.append(live.request.request_id)
                        cancelled = Answer(finish=generation_pb2.FINISH_REASON_CANCELLED)
                        self.finished.append(_finish_event(slot, Live(live.request, cancelled)))
                case "ack":
                    fake.acked_step = message.ack.step
            self.work.set()
        self.work.set()

    def step(self, step: int) -> tokenizer_pb2.TokenizerSessionResponse:
        """The next delta of every request."""
        message = tokenizer_pb2.TokenizerSessionResponse(step=step, finished=self.finished)
        self.finished.clear()
        self.work.clear()
        for slot in self.slots():
            live = self.fake.live[self.number, slot]
            answer = live.answer
            if answer.deltas and (answer.endless or live.sent < len(answer.deltas)):
                token_id = live.sent
                delta = answer.deltas[live.sent % len(answer.deltas)]
                live.sent += 1
                self.work.set()
                if isinstance(delta, str):
                    message.slots.append(slot)
                    message.text_deltas.append(delta)
                    message.token_counts.append(1)
                    message.token_ids.append(token_id)
                else:
                    message.details.add(slot=slot, response=delta, token_ids=[token_id])
            if not answer.endless and live.sent == len(answer.deltas):
                for sample in range(1, live.request.sampling.num_samples):
                    message.finished.add(slot=slot, sample_index=sample, reason=answer.finish)
                message.finished.append(_finish_event(slot, live))
                del self.fake.live[self.number, slot]
        return message


def _finish_event(slot: int, live: Live) -> FinishEvent:
    event = FinishEvent(slot=slot, reason=live.answer.finish)
    event.usage.prompt_tokens = len(prompt_of(live.request).split())
    event.usage.completion_tokens = live.sent
    if live.answer.error is not None:
        event.reason = generation_pb2.FINISH_REASON_ERROR
        event.error.CopyFrom(live.answer.error.to_proto())
    return event
