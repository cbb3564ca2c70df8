"""Tokenize, Detokenize, RenderChat and ListModels."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from tokenizers import Tokenizer

from tests.services.tokenizer.conftest import TEXT, Service
from tokenwire.status import StatusError
from tokenwire.v1 import tokenizer_pb2

CHAT = tokenizer_pb2.ChatPrompt(messages=[tokenizer_pb2.ChatMessage(role="user", content="Hi")])
RENDERED = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("text", ["Hello", TEXT * 60, ""], ids=["short", "long", "empty"])
async def test_text_becomes_token_ids_and_text_again(
    service: Service, tokenizer: Tokenizer, text: str
) -> None:
    tokens = await service.stub.Tokenize(tokenizer_pb2.TokenizeRequest(text=text))
    assert list(tokens.token_ids) == tokenizer.encode(text).ids
    assert tokens.max_model_len == 512

    back = await service.stub.Detokenize(tokenizer_pb2.DetokenizeRequest(token_ids=tokens.token_ids))
    assert back.text == text


async def test_a_long_text_keeps_nobody_waiting(service: Service) -> None:
    long = asyncio.ensure_future(service.stub.Tokenize(tokenizer_pb2.TokenizeRequest(text=TEXT * 2000)))
    await asyncio.sleep(0.05)
    await service.stub.Tokenize(tokenizer_pb2.TokenizeRequest(text="short"))

    assert not long.done()
    await long


async def test_a_chat_is_rendered_and_encoded(service: Service, tokenizer: Tokenizer) -> None:
    rendered = await service.stub.RenderChat(tokenizer_pb2.RenderChatRequest(model="tiny", chat=CHAT))
    tokens = await service.stub.Tokenize(tokenizer_pb2.TokenizeRequest(chat=CHAT))

    assert rendered.text == RENDERED
    assert list(tokens.token_ids) == tokenizer.encode(RENDERED).ids


async def test_special_tokens_are_kept_on_request(service: Service, tokenizer: Tokenizer) -> None:
    request = tokenizer_pb2.DetokenizeRequest(
        token_ids=tokenizer.encode(RENDERED).ids, skip_special_tokens=False
    )

    assert (await service.stub.Detokenize(request)).text == RENDERED


async def test_the_models_are_the_engines_names(service: Service) -> None:
    models = (await service.stub.ListModels(tokenizer_pb2.ListModelsRequest())).models

    assert [(model.name, model.root) for model in models] == [("tiny", "tiny"), ("tiny-alias", "tiny")]
    assert all(model.supports_chat and model.max_model_len == 512 for model in models)
    assert models[0].created_unix_s == 1_700_000_000


async def test_a_token_id_outside_the_vocabulary_is_refused(service: Service) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.Detokenize(tokenizer_pb2.DetokenizeRequest(token_ids=[1, 2, 70_000]))

    error = StatusError.from_call(caught.value)
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "token_ids")
    assert "70000 at position 2" in error.message
