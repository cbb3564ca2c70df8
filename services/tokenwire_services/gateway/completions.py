"""POST /v1/completions."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.types import ASGIApp

from tokenwire.status import invalid_argument
from tokenwire.v1 import tokenizer_pb2
from tokenwire_services.gateway.completions_output import CompletionsOutput
from tokenwire_services.gateway.documentation import generation_responses
from tokenwire_services.gateway.exchange import Exchange
from tokenwire_services.gateway.field_names import FieldNames
from tokenwire_services.gateway.json_route import JsonRoute
from tokenwire_services.gateway.models import only_model
from tokenwire_services.gateway.output import Header
from tokenwire_services.gateway.reply import Reply
from tokenwire_services.gateway.request_proto import generate_request
from tokenwire_services.gateway.schemas.base import MAX_SAMPLES
from tokenwire_services.gateway.schemas.completions import CompletionRequest
from tokenwire_services.gateway.schemas.responses import Completion
from tokenwire_services.gateway.sse import EventStream
from tokenwire_services.gateway.tokenizer_link import TokenizerLink

PATH = "/v1/completions"
DEFAULT_MAX_TOKENS = 16


def router(link: TokenizerLink) -> APIRouter:
    """The route, answered over a link."""
    routes = APIRouter(route_class=JsonRoute, tags=["generation"])

    @routes.post(
        PATH,
        summary="Continue a text",
        response_model=None,
        responses=generation_responses(Completion),
    )
    async def create_completion(body: CompletionRequest) -> ASGIApp:
        model = body.model or await only_model(link)
        header = Header("cmpl", model, body.request_id)
        names = FieldNames("completions", body.structured_outputs is not None)
        output = CompletionsOutput(header, names, body)
        if body.num_choices > MAX_SAMPLES:
            await _check_capacity(link, model, body)
        exchange = Exchange(link.session)
        exchange.submit(_to_protos(body, header.request_id), wake_on_delta=bool(body.stream))
        return EventStream(exchange, output) if body.stream else Reply(exchange, output)

    return routes


async def _check_capacity(link: TokenizerLink, model: str, body: CompletionRequest) -> None:
    """Look whether as many requests can run or wait at a time, however busy the engines are now.

    Raises:
        StatusError: INVALID_ARGUMENT naming the prompts.
    """
    limits = [card.max_requests for card in await link.list_models() if card.name == model]
    if limits and 0 < limits[0] < body.num_choices:
        raise invalid_argument(
            "text",
            f"{len(body.prompts)} prompts of n = {body.n or 1} are {body.num_choices} requests, and the "
            f"engines of {model!r} hold {limits[0]} at a time; send fewer prompts at once, or ask for fewer "
            "answers",
        )


def _to_protos(body: CompletionRequest, request_id: str) -> list[tokenizer_pb2.TokenizerGenerateRequest]:
    """A request for each prompt."""
    # The engine generates at least one token; where the prompt is all that is wanted, it is dropped.
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else max(1, body.max_tokens)
    requests = []
    for index, prompt in enumerate(body.prompts):
        request = generate_request(body, f"{request_id}-{index}", max_tokens, body.logprobs)
        if isinstance(prompt, str):
            request.text = prompt
            if body.add_special_tokens is not None:
                request.add_special_tokens = body.add_special_tokens
        else:
            request.token_ids.ids.extend(prompt)
        if body.echo:
            request.return_prompt_text = True
            if body.logprobs is not None:
                request.logprobs.num_prompt_logprobs = max(body.logprobs, body.prompt_logprobs or 0)
        requests.append(request)
    return requests
