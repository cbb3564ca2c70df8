"""Answers sent as they are produced, as server-sent events, straight on ASGI.

One write per wake-up: what arrived since the last one, of all of the request's generations, goes out
together. A stream of one generation is not even woken for a delta: it is written where it arrives. While the
client's socket is full the write waits, and text gathers in the generation, in as few pieces as the client
takes. The response's head waits for the first delta, so that a request which fails before it gets a proper
HTTP status.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl

from tokenwire_services.gateway.errors import ApiError
from tokenwire_services.gateway.exchange import Exchange
from tokenwire_services.gateway.output import Output

_SERVER_SEND = "tokenwire.server_send"

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class OfferServerSend:
    """The outermost layer: lets the events of a stream go straight to the server.

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
        self._failure: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange, output = self._exchange, self._output
        async with exchange.attended(receive):
            await exchange.wakeup.wait()
            if exchange.error is not None and not exchange.is_disconnected:
                await ApiError.from_status(exchange.error, output.endpoint).response()(scope, receive, send)
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
        deputy = self._deputy(send) if len(unfinished) == 1 else None
        events = output.opening(exchange.generations)
        while not exchange.is_disconnected:
            for index, generation in list(unfinished.items()):
                events += output.delta(index, generation)
                if generation.error is not None:
                    events += _error_event(ApiError.from_status(generation.error, output.endpoint))
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
            wakeup.deputy = deputy
            await wakeup.wait()
            wakeup.deputy = None
            if self._failure is not None:
                raise self._failure

    def _deputy(self, send: Send) -> Callable[[], bool] | None:
        """What sends a stream's deltas without waking its task, while there is nothing to wait for.

        It knows uvicorn's connection, whose `send` waits only while the client's socket is full.
        """
        flow = getattr(getattr(send, "__self__", None), "flow", None)
        if not isinstance(flow, FlowControl):
            return None
        exchange, output = self._exchange, self._output
        (generation,) = exchange.generations

        def send_delta() -> bool:
            if generation.done or exchange.is_disconnected or flow.write_paused:
                return False
            try:
                events = output.delta(0, generation)
                if events:
                    sending = send({"type": "http.response.body", "body": events, "more_body": True})
                    with contextlib.suppress(StopIteration):
                        sending.__await__().__next__()
                        raise RuntimeError("uvicorn waits although the connection can be written to")
            except Exception as error:  # this response's trouble, not that of whoever delivers
                self._failure = error
                return False
            return True

        return send_delta


def _error_event(error: ApiError) -> bytes:
    """The last event of a stream that failed; no [DONE] follows it."""
    return b"data: " + error.body() + b"\n\n"
