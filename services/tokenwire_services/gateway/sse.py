"""Answers sent as they are produced, as server-sent events, straight on ASGI.

One write per wake-up: what arrived since the last one, of all of the request's generations, goes out
together. Plain text does not even wake the response: it is written where it arrives, see `text_writer.py`.
While the client's socket is full the write waits, and text gathers in the generation, in as few pieces as the
client takes. The response's head waits for the first delta, so that a request which fails before it gets a
proper HTTP status.
"""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from tokenwire_services.gateway.client import Client
from tokenwire_services.gateway.errors import ApiError
from tokenwire_services.gateway.exchange import Exchange
from tokenwire_services.gateway.output import Output
from tokenwire_services.gateway.text_writer import TextWriter, text_writer

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """The streaming answer of an exchange."""

    def __init__(self, exchange: Exchange, output: Output) -> None:
        self._exchange = exchange
        self._output = output

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange, output = self._exchange, self._output
        client = Client.taken_from(scope)
        exchange.attend(client)
        try:
            await exchange.wakeup.wait()
            if exchange.error is not None and not exchange.is_disconnected:
                await ApiError.from_status(exchange.error, output.names).response()(scope, receive, send)
                return
            client.begin_stream()
            # A copy: what wraps `send` may add headers of its own.
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            await self._send_events(client)
        finally:
            exchange.end()

    async def _send_events(self, client: Client) -> None:
        exchange, output, wakeup, send = self._exchange, self._output, self._exchange.wakeup, client.send
        unfinished = dict(enumerate(exchange.generations))
        writer = self._writer(client)
        events = output.opening(exchange.generations)
        while not exchange.is_disconnected:
            for index, generation in list(unfinished.items()):
                events += output.delta(index, generation)
                if generation.error is not None:
                    events += _error_event(ApiError.from_status(generation.error, output.names))
                    await client.end_stream(events)
                    return
                if generation.done:
                    events += output.finish(index, generation)
                    del unfinished[index]
            if not unfinished:
                events += output.closing(exchange.generations)
                await client.end_stream(events)
                return
            if events:
                await send({"type": "http.response.body", "body": events, "more_body": True})
                events = b""
            else:
                client.let_head_go()
            for generation in unfinished.values():
                generation.write_with(writer)
            await wakeup.wait()
            for generation in unfinished.values():
                generation.hold()

    def _writer(self, client: Client) -> TextWriter | None:
        """What writes the text of a single generation; that of several goes out together."""
        if len(self._exchange.generations) > 1:
            return None
        around = self._output.around_text(0)
        return around and text_writer(client, *around, self._exchange.generations[0].hold)


def _error_event(error: ApiError) -> bytes:
    """The last event of a stream that failed; no [DONE] follows it."""
    return b"data: " + error.body() + b"\n\n"
