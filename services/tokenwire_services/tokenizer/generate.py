"""Generate: one request, one stream."""

from __future__ import annotations

from typing import Any

import grpc

from tokenwire.status import abort
from tokenwire.v1 import tokenizer_pb2
from tokenwire_services.tokenizer.config import TokenizerConfig
from tokenwire_services.tokenizer.engines import Engines
from tokenwire_services.tokenizer.outbox import Deltas, Finish, Outbox
from tokenwire_services.tokenizer.requests import start

Response = tokenizer_pb2.TokenizerGenerateResponse

_SLOT = 0


async def generate(
    engines: Engines,
    config: TokenizerConfig,
    request: tokenizer_pb2.TokenizerGenerateRequest,
    context: grpc.aio.ServicerContext[Any, Any],
) -> None:
    """Serve one call. Whatever ends it ends the request at the engine, too.

    A peer that reads slowly makes the writes wait, and what is generated meanwhile comes as one message; what
    can wait is bounded by the request's own output.

    Raises:
        StatusError: the request cannot be served.
    """
    outbox = Outbox(config.max_backlog_bytes)
    running = await start(engines, config, request, _SLOT, outbox)
    try:
        while True:
            deltas = await outbox.take()
            for response in responses(deltas):
                await context.write(response)
            for _, finish in deltas.finished:
                if finish.error is not None:
                    await abort(context, finish.error)
                if finish.usage is not None:
                    return
    finally:
        running.cancel()


def responses(deltas: Deltas) -> list[Response]:
    """A single request's deltas as messages; a sample's last one carries its end, if it ended without error.

    The request's usage is in the last of all.
    """
    messages = [Response(text_delta=text) for text in deltas.texts if text]
    messages += [detail.response for detail in deltas.details]
    for _, finish in deltas.finished:
        if finish.error is None:
            if not messages or not _may_end(messages[-1], finish):
                messages.append(Response(sample_index=finish.sample_index))
            _end(messages[-1], finish)
    return messages


def _may_end(message: Response, finish: Finish) -> bool:
    return message.sample_index == finish.sample_index and not message.finish_reason


def _end(message: Response, finish: Finish) -> None:
    message.finish_reason = finish.reason
    if finish.usage is not None:
        message.usage.CopyFrom(finish.usage)
    if finish.stop_string is not None:
        message.stop_string = finish.stop_string
    if finish.stop_token_id is not None:
        message.stop_token_id = finish.stop_token_id
