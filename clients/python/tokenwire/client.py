"""The synchronous client: text and chats in, text out, over gRPC to a tokenizer service."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Protocol, Self, TypeVar, Unpack

import grpc

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


class _Call(Protocol):
    """What gRPC returns for a call that streams."""

    def __next__(self) -> tokenizer_pb2.TokenizerGenerateResponse: ...

    def cancel(self) -> object: ...


class Stream:
    """An answer as it is generated: iterate over its deltas, or wait for the `result`.

    When its server is lost, the answer goes on at the next one that serves there. Leaving the `with` block,
    `close`, and dropping the last reference cancel what is not yet generated.
    """

    def __init__(self, stub: tokenizer_pb2_grpc.TokenizerStub, continuation: Continuation) -> None:
        self._stub = stub
        self._continuation = continuation
        self._begin()
        self._collector = Collector()
        self._closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delta:
        """The next delta.

        Raises:
            TokenwireError: the call failed.
        """
        if self._closed:
            raise StopIteration
        while True:
            try:
                delta = self._continuation.receive(next(self._call))
            except grpc.RpcError as error:
                if self._closed or not self._continuation.resume_after(error):
                    raise error_from_call(error) from None
                time.sleep(PAUSE_S)
                self._begin()
                continue
            if delta is not None:
                self._collector.add(delta)
                return delta

    def _begin(self) -> None:
        continuation = self._continuation
        self._call: _Call = self._stub.Generate(continuation.request, timeout=continuation.timeout_s)

    def result(self) -> Generation:
        """The whole answer, what was already iterated over included.

        Raises:
            TokenwireError: the call failed; CancelledError if it was closed.
        """
        for _ in self:
            pass
        if self._closed:
            raise CancelledError("the stream was closed before its end", "CANCELLED")
        return self._collector.generation()

    def close(self) -> None:
        """Cancel what is not yet generated."""
        self._closed = True
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Client:
    """A connection to a tokenizer service. Safe to share between threads.

    >>> with Client("localhost:50052") as client:
    ...     print(client.generate("The capital of France is", max_tokens=5).text)
    ...     for delta in client.stream_chat([{"role": "user", "content": "Hello"}]):
    ...         print(delta.text, end="")

    Every call raises a TokenwireError (see `tokenwire.errors`) when it fails.
    """

    def __init__(
        self, target: str, *, timeout: float | None = None, failover_timeout: float = FAILOVER_TIMEOUT_S
    ) -> None:
        """Connect, when the first call needs it, to `target` ("host:port").

        `timeout`, in seconds, is for every call that has none of its own; None waits for ever. An answer that
        has begun and whose server is lost fails only when there is none again for `failover_timeout` seconds.
        """
        self._timeout = timeout
        self._failover_timeout = failover_timeout
        self._channel = grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
        self._stub = tokenizer_pb2_grpc.TokenizerStub(self._channel)

    def generate(self, prompt: str | Sequence[int], **options: Unpack[GenerateOptions]) -> Generation:
        """Continue a text, or a sequence of token IDs."""
        return self.stream_generate(prompt, **options).result()

    def stream_generate(self, prompt: str | Sequence[int], **options: Unpack[GenerateOptions]) -> Stream:
        """Continue a text, or a sequence of token IDs, delta by delta."""
        return self._stream(requests.generate_request(prompt, options), options)

    def chat(self, messages: Iterable[Message], **options: Unpack[ChatOptions]) -> Generation:
        """Answer a conversation."""
        return self.stream_chat(messages, **options).result()

    def stream_chat(self, messages: Iterable[Message], **options: Unpack[ChatOptions]) -> Stream:
        """Answer a conversation, delta by delta."""
        return self._stream(requests.chat_request(messages, options), options)

    def tokenize(self, prompt: str | Iterable[Message], **options: Unpack[TokenizeOptions]) -> list[int]:
        """Token IDs of a text, or of the prompt that a conversation makes."""
        request = requests.tokenize_request(prompt, options)
        return list(self._call(self._stub.Tokenize, request, options).token_ids)

    def detokenize(self, token_ids: Iterable[int], **options: Unpack[DetokenizeOptions]) -> str:
        """Text of token IDs."""
        request = requests.detokenize_request(token_ids, options)
        return self._call(self._stub.Detokenize, request, options).text

    def render_chat(self, messages: Iterable[Message], **options: Unpack[TemplateOptions]) -> str:
        """The prompt that the model's template makes of a conversation, special tokens spelled out."""
        request = requests.render_request(messages, options)
        return self._call(self._stub.RenderChat, request, options).text

    def models(self, **options: Unpack[CallOptions]) -> list[ModelCard]:
        """What is served."""
        request = requests.models_request(options)
        return models_from_proto(self._call(self._stub.ListModels, request, options))

    def close(self) -> None:
        """Close the connection and cancel its calls."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stream(self, request: tokenizer_pb2.TokenizerGenerateRequest, options: CallOptions) -> Stream:
        timeout = options.get("timeout", self._timeout)
        return Stream(self._stub, Continuation(request, timeout, self._failover_timeout))

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        options: CallOptions,
    ) -> _Response:
        try:
            return method(request, timeout=options.get("timeout", self._timeout))
        except grpc.RpcError as error:
            raise error_from_call(error) from None
