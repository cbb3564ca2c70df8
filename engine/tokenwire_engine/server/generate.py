"""Generate: one request on a stream of its own.

Each message carries what the request produced since the one before; when the client reads slowly that is
several tokens. However the call ends, the request ends with it.
"""

from __future__ import annotations

import asyncio

import grpc

from tokenwire.status import StatusError
from tokenwire.v1 import engine_pb2, generation_pb2
from tokenwire_engine.scheduler.outputs import ChannelOutput, Finished
from tokenwire_engine.server.dispatch import Dispatcher
from tokenwire_engine.server.finish import FINISH_REASONS, error_of, usage
from tokenwire_engine.server.logprobs import MAX_MESSAGE_LOGPROBS, PendingLogprobs
from tokenwire_engine.server.model import ServedModel
from tokenwire_engine.server.requests import add_grammar, read_request

Context = grpc.aio.ServicerContext[engine_pb2.GenerateRequest, engine_pb2.GenerateResponse]


async def generate(
    request: engine_pb2.GenerateRequest, model: ServedModel, dispatcher: Dispatcher, context: Context
) -> None:
    """Serve one call.

    Raises:
        StatusError: when the request is refused or fails.
    """
    stream = _Stream()
    channel = dispatcher.open(stream)
    try:
        submitted = read_request(request, model, channel)
        if request.HasField("constraint"):
            await add_grammar(submitted, request, model)
        dispatcher.submit(submitted, request.continued_request_id)
        while not stream.is_done:
            await context.write(await stream.next_response())
    finally:
        dispatcher.close(channel)


class _Stream:
    """What the request, the channel's only one, produced and the client has not been sent."""

    def __init__(self) -> None:
        self._token_ids: dict[int, list[int]] = {}
        """By sample, only those that have some."""
        self._finished: dict[int, Finished] = {}
        """By sample, those that have ended."""
        self._usage: generation_pb2.Usage | None = None
        self._logprobs = PendingLogprobs()
        self._error: StatusError | None = None
        self._news = asyncio.Event()
        self.is_done = False

    @property
    def is_flushed(self) -> bool:
        return not self._news.is_set()

    def receive(self, output: ChannelOutput) -> None:
        samples = output.sample_indices or [0] * len(output.token_ids)
        for sample, token_id in zip(samples, output.token_ids, strict=True):
            self._token_ids.setdefault(sample, []).append(token_id)
        self._logprobs.receive(output)
        for finished in output.finished:
            self._finished[finished.sample_index] = finished
            self._usage = usage(finished)
            self._error = self._error or error_of(finished)
        self._news.set()

    def fail(self, error: StatusError) -> None:
        self._error = error
        self._news.set()

    async def next_response(self) -> engine_pb2.GenerateResponse:
        """All there is of one sample (of log-probabilities what one message may carry), once there is
        something.

        Raises:
            StatusError: when the request failed and all that came before has been taken.
        """
        await self._news.wait()
        self._news.clear()
        if self._error is not None and not (self._token_ids or self._logprobs):
            raise self._error
        sample = next(iter(self._token_ids or ({} if self._logprobs else self._finished)), 0)
        response = engine_pb2.GenerateResponse(sample_index=sample)
        self._take_tokens(sample, response)
        if self._error is None and not (sample in self._token_ids or self._logprobs):
            self._take_end(sample, response)
        if self._token_ids or self._logprobs or self._finished or self._error is not None:
            self._news.set()
        elif self._usage is not None:
            self.is_done = True
            response.usage.CopyFrom(self._usage)
        return response

    def _take_tokens(self, sample: int, response: engine_pb2.GenerateResponse) -> None:
        token_ids = self._token_ids.pop(sample, [])
        count = MAX_MESSAGE_LOGPROBS if self._logprobs else len(token_ids)
        response.token_ids.extend(token_ids[:count])
        if token_ids[count:]:
            self._token_ids[sample] = token_ids[count:]
        if (piece := self._logprobs.take_prompt()) is not None:
            response.prompt_logprobs.CopyFrom(piece.prompt)
        for part in self._logprobs.take([(0, sample)] * len(response.token_ids)):
            response.logprobs.CopyFrom(part.tokens)

    def _take_end(self, sample: int, response: engine_pb2.GenerateResponse) -> None:
        finished = self._finished.pop(sample, None)
        if finished is not None:
            response.finish_reason = FINISH_REASONS[finished.reason]
            if finished.stop_token_id is not None:
                response.stop_token_id = finished.stop_token_id
