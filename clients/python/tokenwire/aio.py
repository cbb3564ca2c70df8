"""The asynchronous client: the same calls as `tokenwire.Client`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc
from grpc import aio

from tokenwire import requests
from tokenwire.channel import CHANNEL_OPTIONS
from tokenwire.continuation import FAILOVER_TIMEOUT_S, PAUSE_S, Continuation
from tokenwire.errors import CancelledError, error_from_call
from tokenwire.options import (
    CallOptions,
    ChatOptions,
    DetokenizeOptions,
    GenerateOptions,
    Message,
    TemplateOptions,
    TokenizeOptions,
)
from tokenwire.results import Collector, Delta, Generation, ModelCard, models_from_proto
from tokenwire.v1 import tokenizer_pb2, tokenizer_pb2_grpc

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Call = aio.UnaryStreamCall[tokenizer_pb2.TokenizerGenerateRequest, tokenizer_pb2.TokenizerGenerateResponse]


class AsyncStream:
    """An answer as it is generated: iterate over its deltas, or await the `result`.

    When its server is lost, the answer goes on at the next one that serves there. Leaving the `async with`
    block, `close`, and dropping the last reference cancel what is not yet generated.
    """

    def __init__(self, stub: tokenizer_pb2_grpc.TokenizerAsyncStub, continuation: Continuation) -> None:
        self._stub = stub
        self._continuation = continuation
        self._begin()
        self._collector = Collector()
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        """The next delta.

        Raises:
            TokenwireError: the call failed.
        """
        if self._closed:
            raise StopAsyncIteration
        while True:
            try:
                delta = self._continuation.receive(await anext(self._responses))
            except grpc.RpcError as error:
                if self._closed or not self._continuation.resume_after(error):
                    raise error_from_call(error) from None
                await asyncio.sleep(PAUSE_S)
                self._begin()
                continue
            if delta is not None:
                self._collector.add(delta)
                return delta

    def _begin(self) -> None:
        continuation = self._continuation
        self._call: _Call = self._stub.Generate(continuation.request, timeout=continuation.timeout_s)
        self._responses = self._call.__aiter__()

    async def result(self) -> Generation:
        """The whole answer, what was already iterated over included.

        Raises:
            TokenwireError: the call failed; CancelledError if it was closed.
        """
        async for _ in self:
            pass
        if self._closed:
            raise CancelledError("the stream was closed before its end", "CANCELLED")
        return self._collector.generation()

    def close(self) -> None:
        """Cancel what is not yet generated."""
        self._closed = True
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """A connection to a tokenizer service, for one event loop.

    >>> async with AsyncClient("localhost:50052") as client:
    ...     print((await client.generate("The capital of France is", max_tokens=5)).text)
    ...     async for delta in client.stream_chat([{"role": "user", "content": "Hello"}]):
    ...         print(delta.text, end="")

    Every call raises a TokenwireError (see `tokenwire.errors`) when it fails; cancelling the task that awaits
    a call cancels the call.
    """

    def __init__(
        self, target: str, *, timeout: float | None = None, failover_timeout: float = FAILOVER_TIMEOUT_S
    ) -> None:
        """Connect, when the first call needs it, to `target` ("host:port"). Needs a running event loop.

        `timeout`, in seconds, is for every call that has none of its own; None waits for ever. An answer that
        has begun and whose server is lost fails only when there is none again for `failover_timeout` seconds.
        """
        self._timeout = timeout
        self._failover_timeout = failover_timeout
        self._channel = aio.insecure_channel(target, options=CHANNEL_OPTIONS)
        self._stub = tokenizer_pb2_grpc.TokenizerStub(self._channel)

    async def generate(self, prompt: str | Sequence[int], **options: Unpack[GenerateOptions]) -> Generation:
        """Continue a text, or a sequence of token IDs."""
        return await self.stream_generate(prompt, **options).result()

    def stream_generate(self, prompt: str | Sequence[int], **options: Unpack[GenerateOptions]) -> AsyncStream:
        """Continue a text, or a sequence of token IDs, delta by delta."""
        return self._stream(requests.generate_request(prompt, options), options)

    async def chat(self, messages: Iterable[Message], **options: Unpack[ChatOptions]) -> Generation:
        """Answer a conversation."""
        return await self.stream_chat(messages, **options).result()

    def stream_chat(self, messages: Iterable[Message], **options: Unpack[ChatOptions]) -> AsyncStream:
        """Answer a conversation, delta by delta."""
        return self._stream(requests.chat_request(messages, options), options)

    async def tokenize(
        self, prompt: str | Iterable[Message], **options: Unpack[TokenizeOptions]
    ) -> list[int]:
        """Token IDs of a text, or of the prompt that a conversation makes."""
        request = requests.tokenize_request(prompt, options)
        return list((await self._call(self._stub.Tokenize, request, options)).token_ids)

    async def detokenize(self, token_ids: Iterable[int], **options: Unpack[DetokenizeOptions]) -> str:
        """Text of token IDs."""
        request = requests.detokenize_request(token_ids, options)
        return (await self._call(self._stub.Detokenize, request, options)).text

    async def render_chat(self, messages: Iterable[Message], **options: Unpack[TemplateOptions]) -> str:
        """The prompt that the model's template makes of a conversation, special tokens spelled out."""
        request = requests.render_request(messages, options)
        return (await self._call(self._stub.RenderChat, request, options)).text

    async def models(self, **options: Unpack[CallOptions]) -> list[ModelCard]:
        """What is served."""
        request = requests.models_request(options)
        return models_from_proto(await self._call(self._stub.ListModels, request, options))

    async def close(self) -> None:
        """Close the connection and cancel its calls."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _stream(self, request: tokenizer_pb2.TokenizerGenerateRequest, options: CallOptions) -> AsyncStream:
        timeout = options.get("timeout", self._timeout)
        return AsyncStream(self._stub, Continuation(request, timeout, self._failover_timeout))

    async def _call(
        self,
        method: aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        options: CallOptions,
    ) -> _Response:
        try:
            return await method(request, timeout=options.get("timeout", self._timeout))
        except grpc.RpcError as error:
            raise error_from_call(error) from None
