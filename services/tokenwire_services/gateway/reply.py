"""Answers sent in one piece, once every generation has ended."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tokenwire_services.gateway.client import Client
from tokenwire_services.gateway.errors import ApiError
from tokenwire_services.gateway.exchange import Exchange
from tokenwire_services.gateway.output import Output


class Reply:
    """The whole answer of an exchange."""

    def __init__(self, exchange: Exchange, output: Output) -> None:
        self._exchange = exchange
        self._output = output

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = self._exchange
        exchange.attend(Client.taken_from(scope))
        try:
            while not exchange.is_done and exchange.error is None and not exchange.is_disconnected:
                await exchange.wakeup.wait()
            if exchange.is_disconnected:
                return
            answer = self._answer()
        finally:
            exchange.end()
        await answer(scope, receive, send)

    def _answer(self) -> Response:
        if (error := self._exchange.error) is not None:
            return ApiError.from_status(error, self._output.names).response()
        return Response(self._output.whole(self._exchange.generations), media_type="application/json")
