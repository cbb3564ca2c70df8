"""Generate: one request on a stream of its own.

Each message carries what the request produced since the one before; when the client reads slowly that is
several tokens. However the call ends, the request ends with it.
"""

from __future__ import annotations

import asyncio

import grpc

from tokenwire.status import StatusError
from tokenwire.v1 import engine_pb2
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
        dispatcher.submit(submitted)
        while not stream.is_done:
            await context.write(await stream.next_response())
    finally:
        dispatcher.close(channel)


class _Stream:
    """What the request, the channel's only one, produced and the client has not been sent."""

    def __init__(self) -> None:
        self._token_ids: list[int] = []
        self._logprobs = PendingLogprobs()
        self._finished: Finished | None = None
        self._error: StatusError | None = None
        self._news = asyncio.Event()
        self.is_done = False

    @property
    def is_flushed(self) -> bool:
        return not self._news.is_set()

    def receive(self, output: ChannelOutput) -> None:
        self._token_ids += output.token_ids
        self._logprobs.receive(output)
        for finished in output.finished:
            self._finished = finished
            self._error = self._error or error_of(finished)
        self._news.set()

    def fail(self, error: StatusError) -> None:
        self._error = error
        self._news.set()

    async def next_response(self) -> engine_pb2.GenerateResponse:
        """All there is (of log-probabilities what one message may carry), once there is something.

        Raises:
            StatusError: when the request failed and all that came before has been taken.
        """
        await self._news.wait()
        self._news.clear()
        if self._error is not None and not (self._token_ids or self._logprobs):
            raise self._error
        count = MAX_MESSAGE_LOGPROBS if self._logprobs else len(self._token_ids)
        response = engine_pb2.GenerateResponse(token_ids=self._token_ids[:count])
        self._token_ids = self._token_ids[count:]
        for part in self._logprobs.take([0] * len(response.token_ids)):
            if part.HasField("tokens"):
                response.logprobs.CopyFrom(part.tokens)
            else:
                response.prompt_logprobs.CopyFrom(part.prompt)
        if self._token_ids or self._logprobs or self._error is not None:
            self._news.set()
            return response
        if self._finished is not None:
            self.is_done = True
            response.finish_reason = FINISH_REASONS[self._finished.reason]
            response.usage.CopyFrom(usage(self._finished))
            if self._finished.stop_token_id is not None:
                response.stop_token_id = self._finished.stop_token_id
        return response
