"""The bodies of /tokenize and /detokenize."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from tokenwire_services.gateway.schemas.base import UInt32
from tokenwire_services.gateway.schemas.chat import Conversation
from tokenwire_services.gateway.schemas.strict import Tolerant


class TokenizeTextRequest(Tolerant):
    """A text to encode."""

    model: Annotated[str | None, Field(description="Left out: the only model.")] = None
    prompt: str
    add_special_tokens: Annotated[
        bool | None, Field(description="Whether the text gets the tokenizer's special tokens; default true.")
    ] = None
    return_token_strs: Annotated[bool | None, Field(description="Return each token as text, too.")] = None


class TokenizeChatRequest(Conversation):
    """A conversation to render and encode."""

    model: Annotated[str | None, Field(description="Left out: the only model.")] = None
    return_token_strs: Annotated[bool | None, Field(description="Return each token as text, too.")] = None


def _kind_of_input(body: Any) -> str:
    is_chat = isinstance(body, dict) and body.get("prompt") is None and "messages" in body
    return "a chat" if is_chat else "a text"


TokenizeRequest = Annotated[
    Annotated[TokenizeTextRequest, Tag("a text")] | Annotated[TokenizeChatRequest, Tag("a chat")],
    Discriminator(_kind_of_input),
]


class DetokenizeRequest(Tolerant):
    """Token IDs to decode."""

    model: Annotated[str | None, Field(description="Left out: the only model.")] = None
    tokens: Annotated[list[UInt32], Field(fail_fast=True)]
