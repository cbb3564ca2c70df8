"""GET /v1/models: what is served."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from tokenwire.status import invalid_argument, not_found
from tokenwire.v1 import tokenizer_pb2
from tokenwire_services.gateway.documentation import error_responses
from tokenwire_services.gateway.schemas.responses import Model, ModelList
from tokenwire_services.gateway.tokenizer_link import TokenizerLink

Card = tokenizer_pb2.ListModelsResponse.ModelCard


def router(link: TokenizerLink) -> APIRouter:
    """The routes, answered over a link."""
    routes = APIRouter(tags=["models"])

    @routes.get(
        "/v1/models", summary="List the models", response_model=ModelList, responses=error_responses()
    )
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(card) for card in await link.list_models()]}

    # A name may hold slashes, as a hub id does.
    @routes.get(
        "/v1/models/{model:path}",
        summary="Describe a model",
        response_model=Model,
        responses=error_responses(404),
    )
    async def describe_model(model: str) -> dict[str, Any]:
        cards = await link.list_models()
        for card in cards:
            if card.name == model:
                return _model(card)
        served = ", ".join(card.name for card in cards)
        raise not_found("model", model, f"the model {model!r} does not exist; served: {served}")

    return routes


async def only_model(link: TokenizerLink) -> str:
    """The name of the served model, for a request that names none.

    Raises:
        StatusError: INVALID_ARGUMENT when several are served.
    """
    cards = await link.list_models()
    names = dict.fromkeys(card.root or card.name for card in cards)
    if len(names) > 1:
        raise invalid_argument("model", f"you must provide a model parameter; served: {', '.join(names)}")
    return next(iter(names), "")


def _model(card: Card) -> dict[str, Any]:
    return {
        "id": card.name,
        "object": "model",
        "created": card.created_unix_s,
        "owned_by": "tokenwire",
        "root": card.root or card.name,
        "max_model_len": card.max_model_len,
    }
