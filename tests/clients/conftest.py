"""A tokenizer service that says what it is told to, on a real gRPC server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field

import grpc
import pytest

from tests.ports import free_ports
from tokenwire.status import DETAILS_KEY, StatusError
from tokenwire.v1 import generation_pb2, tokenizer_pb2, tokenizer_pb2_grpc


@dataclass
class FakeTokenizer(tokenizer_pb2_grpc.TokenizerServicer):
    """Answers with `deltas`, or fails with `error`; remembers the last request.

    `arrived` is set when a request came, `cancelled` when a stream has ended. With `hold` a stream does not
    end by itself.
    """

    target: str = ""
    deltas: list[tokenizer_pb2.TokenizerGenerateResponse] = field(default_factory=list)
    error: StatusError | None = None
    hold: bool = False
    arrived: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    request: object = None

    def Generate(self, request, context):
        self._receive(request, context)
        context.add_callback(self.cancelled.set)
        yield from self.deltas
        if self.hold:
            self.cancelled.wait(30)

    def Tokenize(self, request, context):
        self._receive(request, context)
        return tokenizer_pb2.TokenizeResponse(token_ids=[5, 6, 7])

    def Detokenize(self, request, context):
        self._receive(request, context)
        return tokenizer_pb2.DetokenizeResponse(text="five six")

    def RenderChat(self, request, context):
        self._receive(request, context)
        return tokenizer_pb2.RenderChatResponse(text="<user>Hello")

    def ListModels(self, request, context):
        self._receive(request, context)
        card = tokenizer_pb2.ListModelsResponse.ModelCard(
            name="demo", max_model_len=1024, created_unix_s=17, supports_chat=True, root="demo"
        )
        return tokenizer_pb2.ListModelsResponse(models=[card])

    def _receive(self, request, context):
        self.request = request
        self.arrived.set()
        if self.error is not None:
            if self.error.details:
                context.set_trailing_metadata(((DETAILS_KEY, self.error.to_proto().SerializeToString()),))
            context.abort(self.error.code, self.error.message)


@pytest.fixture
def fake() -> Iterator[FakeTokenizer]:
    """The service, listening at `fake.target`."""
    servicer = FakeTokenizer()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    tokenizer_pb2_grpc.add_TokenizerServicer_to_server(servicer, server)
    servicer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield servicer
    servicer.cancelled.set()
    server.stop(None).wait()


@pytest.fixture
def answer(fake: FakeTokenizer) -> FakeTokenizer:
    """The service, saying "Hello, world" in two deltas."""
    response = tokenizer_pb2.TokenizerGenerateResponse
    fake.deltas = [
        response(text_delta="Hello,", token_ids=[1, 2], prompt_token_ids=[9, 8, 7]),
        response(
            text_delta=" world",
            token_ids=[3],
            finish_reason=generation_pb2.FINISH_REASON_STOP,
            stop_string="!",
            usage=generation_pb2.Usage(prompt_tokens=3, completion_tokens=3, cached_prompt_tokens=1),
        ),
    ]
    return fake


@pytest.fixture
def unused_port() -> int:
    """A port that nobody listens on."""
    (port,) = free_ports(1)
    return port
