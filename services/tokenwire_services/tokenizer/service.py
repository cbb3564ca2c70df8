"""The Tokenizer service's methods: each hands over to its module and turns its errors into a status."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from tokenwire.duplex.served_call import LibraryCall
from tokenwire.duplex.sessions import Sessions
from tokenwire.status import StatusError, abort
from tokenwire.v1 import tokenizer_pb2, tokenizer_pb2_grpc
from tokenwire_services.tokenizer import text
from tokenwire_services.tokenizer.config import TokenizerConfig
from tokenwire_services.tokenizer.engines import Engines
from tokenwire_services.tokenizer.generate import generate
from tokenwire_services.tokenizer.session import Session, Stream

Context = grpc.aio.ServicerContext[Any, Any]


class TokenizerService(tokenizer_pb2_grpc.TokenizerServicer):
    """Serves the models of the engines."""

    def __init__(self, engines: Engines, config: TokenizerConfig) -> None:
        self._engines = engines
        self._config = config
        self._ended = asyncio.Event()
        self._sessions = Sessions(
            round(config.session_grace_s * 1000),
            lambda grace_ms: Session(engines, config, grace_ms, self._ended),
        )

    async def end_sessions(self) -> None:
        """This process goes away: end every session's stream, so that its requests go on at another one."""
        self._ended.set()
        await self._sessions.until_streams_end()

    # Streams are coroutines that write rather than generators: a coroutine is cancelled at once when the peer
    # hangs up, a generator only when it is collected.

    async def Generate(  # type: ignore[override]  # noqa: N802
        self, request: tokenizer_pb2.TokenizerGenerateRequest, context: Context
    ) -> None:
        async with _errors_to(context):
            await generate(self._engines, self._config, request, context)

    async def Session(  # type: ignore[override]  # noqa: N802
        self, requests: AsyncIterator[tokenizer_pb2.TokenizerSessionRequest], context: Context
    ) -> None:
        async with _errors_to(context):
            await self.serve_session(LibraryCall(context))

    async def serve_session(self, call: Stream) -> None:
        """Serve a call of Session, whoever carries it.

        Raises:
            StatusError: what to end it with.
        """
        await self._sessions.serve(call)

    async def Tokenize(  # noqa: N802
        self, request: tokenizer_pb2.TokenizeRequest, context: Context
    ) -> tokenizer_pb2.TokenizeResponse:
        async with _errors_to(context):
            return await text.tokenize(self._engines, self._config, request)

    async def Detokenize(  # noqa: N802
        self, request: tokenizer_pb2.DetokenizeRequest, context: Context
    ) -> tokenizer_pb2.DetokenizeResponse:
        async with _errors_to(context):
            return text.detokenize(self._engines, request)

    async def RenderChat(  # noqa: N802
        self, request: tokenizer_pb2.RenderChatRequest, context: Context
    ) -> tokenizer_pb2.RenderChatResponse:
        async with _errors_to(context):
            return await text.render(self._engines, self._config, request)

    async def ListModels(  # noqa: N802
        self, request: tokenizer_pb2.ListModelsRequest, context: Context
    ) -> tokenizer_pb2.ListModelsResponse:
        async with _errors_to(context):
            return text.list_models(self._engines)


@contextlib.asynccontextmanager
async def _errors_to(context: Context) -> AsyncIterator[None]:
    """Abort the call with the StatusError that its handler raises."""
    try:
        yield
    except StatusError as error:
        await abort(context, error)
