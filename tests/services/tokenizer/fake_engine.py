"""An engine without a model: it speaks the real protocol on a real port and answers with scripted tokens."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from tokenwire.status import StatusError
from tokenwire.v1 import engine_pb2, engine_pb2_grpc, generation_pb2

Context = grpc.aio.ServicerContext[Any, Any]
Reply = Callable[[engine_pb2.GenerateRequest], Sequence[int]]


@dataclass
class Live:
    """One request in a slot."""

    request: engine_pb2.GenerateRequest
    tokens: list[int]
    sent: int = 0


@dataclass
class FakeEngine(engine_pb2_grpc.EngineServicer):
    """Every request gets the tokens that `reply` says; the model's end-of-sequence token ends it."""

    files: dict[str, bytes]
    reply: Reply
    info: engine_pb2.GetModelResponse
    refuse: StatusError | None = None
    """What requests are refused with."""
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared: no step is computed."""
    tokens_per_step: int = 1
    requests: list[engine_pb2.GenerateRequest] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    """Slots, in the order of the commands."""
    acknowledged: int = 0
    live: dict[int, Live] = field(default_factory=dict)
    file_requests: int = 0
    sessions: int = 0
    commands_received: int = 0
    _breaks: int = 0
    _news: list[asyncio.Event] = field(default_factory=list)
    port: int = 0
    health: health.HealthServicer = field(default_factory=health.HealthServicer)
    _server: grpc.aio.Server | None = None

    async def start(self, serving: bool = True) -> None:
        """Listen, on the same port as before when started again, as a new process would."""
        self.info.instance_id = str(uuid.uuid4())
        self.flowing.set()
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        engine_pb2_grpc.add_EngineServicer_to_server(self, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self.set_serving(serving)
        await self._server.start()

    async def set_serving(self, serving: bool) -> None:
        kinds = health_pb2.HealthCheckResponse
        await self.health.set("tokenwire.v1.Engine", kinds.SERVING if serving else kinds.NOT_SERVING)

    async def stop(self) -> None:
        """Die: every stream breaks."""
        if self._server is not None:
            await self._server.stop(None)
        self.live.clear()

    def break_sessions(self) -> None:
        """End every session, as a network does; the engine lives on."""
        self._breaks += 1
        for news in self._news:
            news.set()

    async def GetModel(self, request: Any, context: Context) -> engine_pb2.GetModelResponse:
        return self.info

    async def GetLoad(self, request: Any, context: Context) -> engine_pb2.GetLoadResponse:
        return engine_pb2.GetLoadResponse(running_requests=len(self.live))

    def Generate(self, request: Any, context: Context) -> Any:
        raise NotImplementedError("requests come by session")

    async def GetTokenizerFiles(
        self, request: Any, context: Context
    ) -> AsyncIterator[engine_pb2.GetTokenizerFilesResponse]:
        self.file_requests += 1
        for name, data in self.files.items():
            for begin in range(0, max(len(data), 1), 1000):
                yield engine_pb2.GetTokenizerFilesResponse(name=name, data=data[begin : begin + 1000])

    async def Session(
        self, requests: AsyncIterator[engine_pb2.SessionRequest], context: Context
    ) -> AsyncIterator[engine_pb2.SessionResponse]:
        opening = (await anext(aiter(requests))).open
        if opening.HasField("resume_after_step"):
            await context.abort(grpc.StatusCode.NOT_FOUND, "no session is kept here")
        self.sessions += 1
        self.commands_received = 0
        breaks = self._breaks
        finished: list[engine_pb2.SessionResponse.FinishEvent] = []
        news = asyncio.Event()
        self._news.append(news)
        reader = asyncio.create_task(self._read(requests, finished, news))
        try:
            yield engine_pb2.SessionResponse(opened=engine_pb2.SessionResponse.Opened())
            step = 0
            while True:
                if not self.live and not finished:
                    news.clear()
                    await news.wait()
                if breaks != self._breaks:
                    return
                await asyncio.sleep(0)
                await self.flowing.wait()
                step += 1
                yield self._step(step, finished)
        finally:
            reader.cancel()
            self.live.clear()

    async def _read(
        self,
        requests: AsyncIterator[engine_pb2.SessionRequest],
        finished: list[engine_pb2.SessionResponse.FinishEvent],
        news: asyncio.Event,
    ) -> None:
        async for message in requests:
            self.commands_received += message.WhichOneof("command") != "ack"
            match message.WhichOneof("command"):
                case "submit":
                    slot, request = message.submit.slot, message.submit.request
                    assert slot not in self.live, "a slot was used before its finish event"
                    self.requests.append(request)
                    if self.refuse is not None:
                        finished.append(_event(slot, generation_pb2.FINISH_REASON_ERROR, self.refuse))
                    else:
                        tokens = list(self.reply(request))
                        self.live[slot] = Live(request, tokens, len(request.resumed_token_ids))
                case "cancel":
                    slot = message.cancel.slot
                    self.cancelled.append(slot)
                    if live := self.live.pop(slot, None):
                        event = _event(slot, generation_pb2.FINISH_REASON_CANCELLED)
                        event.usage.completion_tokens = live.sent
                        finished.append(event)
                case "ack":
                    self.acknowledged = message.ack.step
            news.set()

    def _step(
        self, step: int, finished: list[engine_pb2.SessionResponse.FinishEvent]
    ) -> engine_pb2.SessionResponse:
        response = engine_pb2.SessionResponse(
            step=step, finished=finished, commands_received=self.commands_received
        )
        finished.clear()
        for slot, live in list(self.live.items()):
            for _ in range(self.tokens_per_step):
                token = live.tokens[live.sent]
                live.sent += 1
                response.slots.append(slot)
                response.token_ids.append(token)
                if live.request.logprobs.HasField("num_logprobs"):
                    _score(response, slot, token, live.request.logprobs.num_logprobs)
                stopped = token in self.info.eos_token_ids and not live.request.stop.ignore_eos
                if stopped or live.sent == (live.request.stop.max_tokens or len(live.tokens)):
                    reason = (
                        generation_pb2.FINISH_REASON_STOP if stopped else generation_pb2.FINISH_REASON_LENGTH
                    )
                    event = _event(slot, reason)
                    event.usage.prompt_tokens = len(live.request.prompt_token_ids)
                    event.usage.completion_tokens = live.sent
                    if stopped:
                        event.stop_token_id = token
                    response.finished.append(event)
                    del self.live[slot]
                    break
        return response


def _score(response: engine_pb2.SessionResponse, slot: int, token: int, num_top: int) -> None:
    """A log-probability of -token / 8; the alternatives are the tokens before it in the vocabulary."""
    if not response.logprobs or response.logprobs[-1].slot != slot:
        response.logprobs.add(slot=slot)
    columns = response.logprobs[-1].tokens
    columns.num_top = num_top
    columns.token_logprobs.append(-token / 8)
    columns.token_ranks.append(token + 1)
    columns.top_token_ids.extend(range(num_top))
    columns.top_logprobs.extend(-other / 8 for other in range(num_top))


def _event(slot: int, reason: int, error: StatusError | None = None) -> Any:
    return engine_pb2.SessionResponse.FinishEvent(
        slot=slot,
        reason=reason,  # type: ignore[arg-type]
        usage=generation_pb2.Usage(),
        error=error.to_proto() if error is not None else None,
    )
