"""The prompt of a request, given as a text, a chat or token IDs, as the tokens that the engine gets."""

from __future__ import annotations

from dataclasses import dataclass

from tokenwire.status import invalid_argument
from tokenwire.v1 import tokenizer_pb2
from tokenwire_services.tokenizer.chat import encode_chat, encode_short_chat, render_chat
from tokenwire_services.tokenizer.config import TokenizerConfig
from tokenwire_services.tokenizer.model import Model
from tokenwire_services.tokenizer.prompt import check_token_ids, encode, encode_short

_MOST_BYTES_PER_TOKEN = 64
"""No text averages more, so that longer ones are refused without the time that encoding them takes."""


@dataclass(slots=True)
class RequestPrompt:
    """A request's prompt, encoded."""

    token_ids: list[int]
    field: str
    """What errors call it."""
    given: str | None = None
    """The text that was encoded, if one was."""
    is_whole: bool = True
    """Whether all of its tokens were kept."""

    def truncate(self, truncation: tokenizer_pb2.Truncation, default: int) -> None:
        """Keep a part of it, of at most `default` tokens where the truncation does not say."""
        most = truncation.max_tokens if truncation.HasField("max_tokens") else max(1, default)
        excess = len(self.token_ids) - most
        if excess > 0:
            self.token_ids = self.token_ids[:most] if truncation.keep_first else self.token_ids[excess:]
            self.is_whole = False

    def text(self, model: Model) -> str:
        """It as text, whatever it was given as."""
        if self.given is not None and self.is_whole:
            return self.given
        return model.tokenizer.decode(self.token_ids, False)


async def encode_prompt(
    model: Model, config: TokenizerConfig, request: tokenizer_pb2.TokenizerGenerateRequest
) -> RequestPrompt:
    """A request's prompt, whatever it was given as.

    Raises:
        StatusError: it cannot be rendered or encoded, or is too long.
    """
    max_bytes = _max_prompt_bytes(model, config, request)
    match request.WhichOneof("prompt"):
        case "text":
            token_ids = await encode(model, request.text, _adds_special_tokens(request), "prompt", max_bytes)
            return RequestPrompt(token_ids, "prompt", request.text)
        case "chat":
            chat = await render_chat(model, config, request.chat)
            return RequestPrompt(await encode_chat(model, chat, max_bytes), "chat.messages", chat.text)
        case _:
            return _given_token_ids(model, request)


def encode_short_prompt(
    model: Model, config: TokenizerConfig, request: tokenizer_pb2.TokenizerGenerateRequest
) -> RequestPrompt | None:
    """The same, at once; None for a prompt that takes its time."""
    max_bytes = _max_prompt_bytes(model, config, request)
    match request.WhichOneof("prompt"):
        case "text":
            special = _adds_special_tokens(request)
            token_ids = encode_short(model, request.text, special, "prompt", max_bytes)
            return None if token_ids is None else RequestPrompt(token_ids, "prompt", request.text)
        case "chat":
            encoded = encode_short_chat(model, config, request.chat, max_bytes)
            return None if encoded is None else RequestPrompt(encoded[1], "chat.messages", encoded[0])
        case _:
            return _given_token_ids(model, request)


def _max_prompt_bytes(
    model: Model, config: TokenizerConfig, request: tokenizer_pb2.TokenizerGenerateRequest
) -> int:
    if request.HasField("truncation"):
        return config.max_prompt_bytes
    return min(config.max_prompt_bytes, _MOST_BYTES_PER_TOKEN * model.info.max_model_len)


def _adds_special_tokens(request: tokenizer_pb2.TokenizerGenerateRequest) -> bool:
    return not request.HasField("add_special_tokens") or request.add_special_tokens


def _given_token_ids(model: Model, request: tokenizer_pb2.TokenizerGenerateRequest) -> RequestPrompt:
    """The prompt of a request that has neither a text nor a chat."""
    if not request.HasField("token_ids"):
        raise invalid_argument("prompt", "missing; expected text, chat or token_ids")
    token_ids = list(request.token_ids.ids)
    check_token_ids(model, token_ids, "prompt")
    return RequestPrompt(token_ids, "prompt")
