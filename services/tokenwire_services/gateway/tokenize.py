"""POST /tokenize and POST /detokenize, as vLLM has them."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Response

from tokenwire.v1 import tokenizer_pb2
from tokenwire_services.gateway.chat import chat_prompt
from tokenwire_services.gateway.documentation import error_responses
from tokenwire_services.gateway.json_route import JsonRoute
from tokenwire_services.gateway.logprobs import token_text
from tokenwire_services.gateway.schemas.responses import Detokenized, Tokenized
from tokenwire_services.gateway.schemas.tokenize import (
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeRequest,
)
from tokenwire_services.gateway.tokenizer_link import TokenizerLink

TOKENIZE, DETOKENIZE = "/tokenize", "/detokenize"

_ERRORS = error_responses(400, 404, 413, 415)


def router(link: TokenizerLink) -> APIRouter:
    """The routes, answered over a link."""
    routes = APIRouter(route_class=JsonRoute, tags=["tokens"])

    @routes.post(
        TOKENIZE, summary="Encode a text or a conversation", response_model=Tokenized, responses=_ERRORS
    )
    async def tokenize(body: TokenizeRequest) -> Response:
        request = tokenizer_pb2.TokenizeRequest(
            model=body.model or "", return_token_bytes=bool(body.return_token_strs)
        )
        if isinstance(body, TokenizeChatRequest):
            request.chat.CopyFrom(chat_prompt(body))
        else:
            request.text = body.prompt
            if body.add_special_tokens is not None:
                request.add_special_tokens = body.add_special_tokens
        response = await link.tokenize(request)
        return _json(
            {
                "count": len(response.token_ids),
                "max_model_len": response.max_model_len,
                "tokens": list(response.token_ids),
                "token_strs": list(map(token_text, response.token_bytes)) if body.return_token_strs else None,
            }
        )

    @routes.post(DETOKENIZE, summary="Decode token IDs", response_model=Detokenized, responses=_ERRORS)
    async def detokenize(body: DetokenizeRequest) -> Response:
        request = tokenizer_pb2.DetokenizeRequest(
            model=body.model or "", token_ids=body.tokens, skip_special_tokens=False
        )
        return _json({"prompt": (await link.detokenize(request)).text})

    return routes


def _json(answer: dict[str, Any]) -> Response:
    return Response(orjson.dumps(answer), media_type="application/json")
