"""Errors on their way over the wire, and requests that are no messages."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from tokenwire.malformed import RefuseMalformed
from tokenwire.status import StatusError, abort, invalid_argument, not_found
from tokenwire.v1 import tokenizer_pb2, tokenizer_pb2_grpc


class Refusing(tokenizer_pb2_grpc.TokenizerServicer):
    """Says that it lacks the model."""

    async def Tokenize(self, request, context):
        name = request.model
        await abort(context, not_found("model", name, f"model {name!r} is not served; served: tiny"))

    async def Generate(self, request, context):
        await self.Tokenize(request, context)


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=[RefuseMalformed()])
    tokenizer_pb2_grpc.add_TokenizerServicer_to_server(Refusing(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


async def failure(call: grpc.aio.UnaryUnaryCall | grpc.aio.UnaryStreamCall) -> StatusError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call if isinstance(call, grpc.aio.UnaryUnaryCall) else call.read())
    return StatusError.from_call(caught.value)


@pytest.mark.parametrize("name", ["x" * 1_000_000, "é😀" * 100_000])
async def test_an_error_that_quotes_a_huge_value_arrives_shortened(channel, name):
    stub = tokenizer_pb2_grpc.TokenizerStub(channel)
    error = await failure(stub.Tokenize(tokenizer_pb2.TokenizeRequest(model=name)))
    assert error.code is grpc.StatusCode.NOT_FOUND
    assert error.message.startswith(f"model '{name[:100]}")
    assert error.message.endswith("' is not served; served: tiny")
    assert len(error.message.encode()) <= 1024


@pytest.mark.parametrize("message", [b"\xff\xff", b"\x0a\x01\xff"], ids=["no message", "not UTF-8"])
async def test_a_request_that_cannot_be_decoded_is_the_callers_fault(channel, message):
    for call in (
        channel.unary_unary("/tokenwire.v1.Tokenizer/Tokenize")(message),
        channel.unary_stream("/tokenwire.v1.Tokenizer/Generate")(message),
    ):
        error = await failure(call)
        assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "request")


def test_a_violations_reason_survives_the_wire():
    error = StatusError.from_proto(invalid_argument("text", "too long", "TOO_LONG").to_proto())
    assert (error.field, error.reason, error.message) == ("text", "TOO_LONG", "text: too long")
    assert StatusError.from_proto(invalid_argument("text", "odd").to_proto()).reason is None
