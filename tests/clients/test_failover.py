"""Answers that outlive the server which began them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest

import tokenwire
from tests.clients.conftest import FakeTokenizer
from tests.patience import PATIENCE_S
from tokenwire.v1 import tokenizer_pb2, tokenizer_pb2_grpc

Response = tokenizer_pb2.TokenizerGenerateResponse
WORDS = ["One", " two", " three", " four"]


class Mortal(FakeTokenizer):
    """Counts, a token a word, and dies behind the second word of its first answer."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tokenizer_pb2.TokenizerGenerateRequest] = []
        self.is_back = True
        """Whether it may be reached again after its death."""

    def Generate(self, request, context):
        self.requests.append(request)
        if len(self.requests) > 1 and not self.is_back:
            context.abort(grpc.StatusCode.UNAVAILABLE, "still down")
        begin = sum(len(tokens.ids) for tokens in request.resumption.samples)
        yield Response(prompt_token_ids=[7])
        for token_id in range(begin, len(WORDS)):
            if token_id == 2 and len(self.requests) == 1:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            yield Response(text_delta=WORDS[token_id], token_ids=[token_id])
        yield Response(finish_reason="FINISH_REASON_STOP", usage={"completion_tokens": len(WORDS)})


@pytest.fixture
def mortal() -> Iterator[Mortal]:
    servicer = Mortal()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    tokenizer_pb2_grpc.add_TokenizerServicer_to_server(servicer, server)
    servicer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield servicer
    server.stop(None).wait()


def check(mortal: Mortal, generation: tokenwire.Generation) -> None:
    """Nothing twice, nothing missing, and the same random numbers."""
    first, second = mortal.requests
    assert generation.text == "".join(WORDS)
    assert generation.usage.completion_tokens == len(WORDS)
    assert list(second.resumption.samples[0].ids) == [0, 1]
    assert second.resumption.request_id == first.request_id != second.request_id
    assert second.sampling.seed == first.sampling.seed


def test_an_answer_goes_on_where_its_server_was_lost(mortal: Mortal) -> None:
    with tokenwire.Client(mortal.target, timeout=PATIENCE_S) as client:
        generation = client.generate("Count")
    check(mortal, generation)
    assert generation.token_ids == generation.prompt_token_ids == ()


async def test_so_does_one_of_the_asynchronous_client(mortal: Mortal) -> None:
    async with tokenwire.AsyncClient(mortal.target, timeout=PATIENCE_S) as client:
        generation = await client.generate("Count", return_token_ids=True)
    check(mortal, generation)
    assert generation.token_ids == (0, 1, 2, 3)


def test_a_server_that_does_not_come_back_is_given_up(mortal: Mortal) -> None:
    mortal.is_back = False
    with (
        tokenwire.Client(mortal.target, timeout=PATIENCE_S, failover_timeout=0.5) as client,
        client.stream_generate("Count") as stream,
    ):
        assert [next(stream).text, next(stream).text] == WORDS[:2]
        with pytest.raises(tokenwire.UnavailableError, match="still down"):
            next(stream)
    assert len(mortal.requests) > 2


def test_an_answer_that_had_not_begun_is_the_callers_to_ask_for_again(unused_port: int) -> None:
    with tokenwire.Client(f"127.0.0.1:{unused_port}") as client, pytest.raises(tokenwire.UnavailableError):
        client.generate("Count")
