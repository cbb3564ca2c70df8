"""What needs no generation: Tokenize, Detokenize, RenderChat, ListModels.

Each raises StatusError when the request cannot be served.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenwire.status import invalid_argument
from tokenwire.v1 import tokenizer_pb2
from tokenwire_services.tokenizer.chat import encode_chat, render_chat
from tokenwire_services.tokenizer.config import TokenizerConfig
from tokenwire_services.tokenizer.engines import Engines
from tokenwire_services.tokenizer.model import Model
from tokenwire_services.tokenizer.prompt import check_token_ids, encode


async def tokenize(
    engines: Engines, config: TokenizerConfig, request: tokenizer_pb2.TokenizeRequest
) -> tokenizer_pb2.TokenizeResponse:
    """Text or a chat to token IDs, just as Generate encodes it."""
    model = engines.model(request.model)
    match request.WhichOneof("input"):
        case "text":
            special = not request.HasField("add_special_tokens") or request.add_special_tokens
            token_ids = await encode(model, request.text, special, "text", config.max_prompt_bytes)
        case "chat":
            chat = await render_chat(model, config, request.chat)
            token_ids = await encode_chat(model, chat, config.max_prompt_bytes)
        case _:
            raise invalid_argument("input", "missing; expected text or chat")
    response = tokenizer_pb2.TokenizeResponse(token_ids=token_ids, max_model_len=model.info.max_model_len)
    if request.return_token_bytes:
        response.token_bytes.extend(model.token_bytes[token_id] for token_id in token_ids)
    return response


def detokenize(
    engines: Engines, request: tokenizer_pb2.DetokenizeRequest
) -> tokenizer_pb2.DetokenizeResponse:
    """Token IDs to text."""
    model = engines.model(request.model)
    check_token_ids(model, request.token_ids, "token_ids")
    skip = not request.HasField("skip_special_tokens") or request.skip_special_tokens
    return tokenizer_pb2.DetokenizeResponse(text=model.tokenizer.decode(request.token_ids, skip))


async def render(
    engines: Engines, config: TokenizerConfig, request: tokenizer_pb2.RenderChatRequest
) -> tokenizer_pb2.RenderChatResponse:
    """A chat to the prompt's text."""
    chat = await render_chat(engines.model(request.model), config, request.chat)
    return tokenizer_pb2.RenderChatResponse(text=chat.text)


def list_models(engines: Engines) -> tokenizer_pb2.ListModelsResponse:
    """One card a served name; a model's first name is the model, the others are its aliases."""
    cards: dict[str, tokenizer_pb2.ListModelsResponse.ModelCard] = {}
    models = engines.models
    for model in models:
        for name in model.info.served_names:
            if name not in cards:
                cards[name] = tokenizer_pb2.ListModelsResponse.ModelCard(
                    name=name,
                    max_model_len=model.info.max_model_len,
                    created_unix_s=model.info.created_unix_s,
                    supports_chat=model.chat_template is not None,
                    root=model.info.served_names[0],
                    max_requests=_max_requests(name, models),
                )
    return tokenizer_pb2.ListModelsResponse(models=cards.values())


def _max_requests(name: str, models: Sequence[Model]) -> int:
    """What all engines of a model hold; 0 where one does not say."""
    limits = [model.info.max_requests for model in models if name in model.info.served_names]
    return sum(limits) if all(limits) else 0
