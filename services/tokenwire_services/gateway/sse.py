"""Answers sent as they are produced, as server-sent events, straight on ASGI.

One write per wake-up: what arrived since the last one, of all of the request's generations, goes out
together. Plain text does not even wake the response: it is written where it arrives, see `text_writer.py`.
While the client's socket is full the write waits, and text gathers in the generation, in as few pieces as the
client takes. The response's head waits for the first delta, so that a request which fails before it gets a
proper HTTP status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenwire_services.gateway.errors import ApiError
from tokenwire_services.gateway.exchange import Exchange
from tokenwire_services.gateway.output import Output
from tokenwire_services.gateway.text_writer import text_writer

_SERVER_SEND = "tokenwire.server_send"

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class OfferServerSend:
    """An outer layer: lets the events of a stream go straight to the server.

    Every layer looks at a response's head only, so the events, which are many, need not pass through all.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_SERVER_SEND] = send
        await self._app(scope, receive, send)


class EventStream(Response):
    """The streaming answer of an exchange."""

    def __init__(self, exchange: Exchange, output: Output) -> None:
        super().__init__()
        self._exchange = exchange
        self._output = output

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange, output = self._exchange, self._output
        async with exchange.attended(receive):
            await exchange.wakeup.wait()
            if exchange.error is not None and not exchange.is_disconnected:
                await ApiError.from_status(exchange.error, output.names).response()(scope, receive, send)
                return
            # A copy: what wraps `send` may add headers of its own.
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            # A task of its own: each wake-up would else pass through all layers around this response.
            events = asyncio.create_task(self._send_events(scope[_SERVER_SEND]))
            try:
                await events
            finally:
                events.cancel()

    async def _send_events(self, send: Send) -> None:
        exchange, output, wakeup = self._exchange, self._output, self._exchange.wakeup
        unfinished = dict(enumerate(exchange.generations))
        writers = {index: self._writer(index, send) for index in unfinished}
        events = output.opening(exchange.generations)
        while not exchange.is_disconnected:
            for index, generation in list(unfinished.items()):
                events += output.delta(index, generation)
                if generation.error is not None:
                    events += _error_event(ApiError.from_status(generation.error, output.names))
                    await send({"type": "http.response.body", "body": events})
                    return
                if generation.done:
                    events += output.finish(index, generation)
                    del unfinished[index]
            if not unfinished:
                events += output.closing(exchange.generations)
                await send({"type": "http.response.body", "body": events})
                return
            if events:
                await send({"type": "http.response.body", "body": events, "more_body": True})
                events = b""
            for index, generation in unfinished.items():
                generation.write_text = writers[index]
            await wakeup.wait()
            for generation in unfinished.values():
                generation.write_text = None

    def _writer(self, index: int, send: Send) -> Callable[[str], bool] | None:
        around = self._output.around_text(index)
        return around and text_writer(send, *around)


def _error_event(error: ApiError) -> bytes:
    """The last event of a stream that failed; no [DONE] follows it."""
    return b"data: " + error.body() + b"\n\n"
