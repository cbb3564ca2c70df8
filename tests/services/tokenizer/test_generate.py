"""Generate: one request, one stream."""

from __future__ import annotations

from tokenizers import Tokenizer

from tests.services.tokenizer.conftest import TEXT, Service
from tokenwire.v1 import generation_pb2, tokenizer_pb2

Request = tokenizer_pb2.TokenizerGenerateRequest


async def test_the_text_of_all_deltas_is_what_the_engine_said(service: Service, tokenizer: Tokenizer) -> None:
    responses = [response async for response in service.stub.Generate(Request(text="Hello"))]

    assert "".join(response.text_delta for response in responses) == TEXT
    assert responses[-1].finish_reason == generation_pb2.FINISH_REASON_STOP
    assert responses[-1].stop_token_id == tokenizer.token_to_id("<|im_end|>")
    assert responses[-1].usage.completion_tokens == len(tokenizer.encode(TEXT).ids) + 1
