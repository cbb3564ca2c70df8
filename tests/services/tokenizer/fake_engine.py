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
    sent: list[int]
    """Tokens sent of each sample."""
    running: set[int]
    """Samples that have not ended."""
    scored: bool = False
    """Whether the prompt's log-probabilities were sent."""


@dataclass
class FakeEngine(engine_pb2_grpc.EngineServicer):
    """Every request gets the tokens that `reply` says; the model's end-of-sequence token ends it.

    A request's sample number i gets them without the first i.
    """

    files: dict[str, bytes]
    reply: Reply
    info: engine_pb2.GetModelResponse
    refuse: StatusError | None = None
    """What requests are refused with."""
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared: no step is computed."""
    tokens_per_step: int = 1
    garbled_steps: int = 0
    """How many of the steps to come have a token too many."""
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
                if not self.live and not finished and breaks == self._breaks:
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
                        samples = range(max(1, request.sampling.num_samples))
                        sent = [len(request.resumed_token_ids)] * len(samples)
                        self.live[slot] = Live(request, tokens, sent, set(samples))
                case "cancel":
                    slot = message.cancel.slot
                    self.cancelled.append(slot)
                    if live := self.live.pop(slot, None):
                        event = _event(slot, generation_pb2.FINISH_REASON_CANCELLED)
                        event.usage.completion_tokens = sum(live.sent)
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
            if live.request.logprobs.HasField("num_prompt_logprobs") and not live.scored:
                live.scored = True
                part = response.logprobs.add(slot=slot)
                for token in live.request.prompt_token_ids[1:]:
                    _score(part.prompt, token, live.request.logprobs.num_prompt_logprobs)
            for sample in sorted(live.running):
                self._sample(response, slot, live, sample)
            if not live.running:
                usage = response.finished[-1].usage
                usage.prompt_tokens = len(live.request.prompt_token_ids)
                usage.completion_tokens = sum(live.sent)
                del self.live[slot]
        if self.garbled_steps and response.slots:
            self.garbled_steps -= 1
            response.token_ids.append(0)
        return response

    def _sample(self, response: engine_pb2.SessionResponse, slot: int, live: Live, sample: int) -> None:
        """A sample's next tokens, and its end."""
        request, tokens = live.request, live.tokens[sample:]
        for _ in range(self.tokens_per_step):
            token = tokens[live.sent[sample]]
            live.sent[sample] += 1
            response.slots.append(slot)
            response.token_ids.append(token)
            if request.sampling.num_samples > 1:
                response.sample_indices.extend([0] * (len(response.slots) - 1 - len(response.sample_indices)))
                response.sample_indices.append(sample)
            elif response.sample_indices:
                response.sample_indices.append(0)
            if request.logprobs.HasField("num_logprobs"):
                if not response.logprobs or not _is_of(response.logprobs[-1], slot, sample):
                    response.logprobs.add(slot=slot, sample_index=sample)
                _score(response.logprobs[-1].tokens, token, request.logprobs.num_logprobs)
            stopped = token in self.info.eos_token_ids and not request.stop.ignore_eos
            if stopped or live.sent[sample] == (request.stop.max_tokens or len(tokens)):
                kinds = generation_pb2
                event = engine_pb2.SessionResponse.FinishEvent(
                    slot=slot,
                    sample_index=sample,
                    reason=kinds.FINISH_REASON_STOP if stopped else kinds.FINISH_REASON_LENGTH,
                    stop_token_id=token if stopped else None,
                )
                response.finished.append(event)
                live.running.remove(sample)
                break


def _is_of(part: engine_pb2.SessionResponse.SlotLogprobs, slot: int, sample: int) -> bool:
    return part.HasField("tokens") and (part.slot, part.sample_index) == (slot, sample)


def _score(columns: generation_pb2.LogprobColumns, token: int, num_top: int) -> None:
    """A log-probability of -token / 8; the alternatives are the first tokens of the vocabulary."""
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
