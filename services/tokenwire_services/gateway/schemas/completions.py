"""The body of a plain completion request."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from tokenwire_services.gateway.schemas.base import Alternatives, Count, GenerationRequest, UInt32
from tokenwire_services.gateway.schemas.strict import WHOLE
from tokenwire_services.gateway.schemas.unused import RefusedUnlessEmpty, only

TokenIds = Annotated[list[UInt32], Field(min_length=1, fail_fast=True)]
Texts = Annotated[list[str], Field(min_length=1, max_length=256, fail_fast=True)]
TokenIdLists = Annotated[list[TokenIds], Field(min_length=1, max_length=256, fail_fast=True)]


class CompletionRequest(GenerationRequest):
    """One or more prompts to continue, each by itself."""

    prompt: Annotated[
        str | TokenIds | Texts | TokenIdLists,
        Field(description="A text, its token IDs, or a list of either."),
    ]

    add_special_tokens: Annotated[
        bool | None, Field(description="Whether a text gets the tokenizer's special tokens; default true.")
    ] = None
    logprobs: Annotated[
        Alternatives | None, Field(description="Return each token's log-probability, and alternatives.")
    ] = None

    echo: Annotated[
        bool | None, Field(validate_default=True, description="Begin each answer with its prompt.")
    ] = None
    max_tokens: Annotated[Count | None, Field(description="Most tokens to generate; 0 only with 'echo'.")] = (
        None
    )
    best_of: Annotated[
        Annotated[int, Field(ge=1), WHOLE] | None, Field(description="Only the value of 'n' is supported.")
    ] = None
    suffix: Annotated[str | None, only("")] = None
    prompt_embeds: RefusedUnlessEmpty = None

    @field_validator("echo")
    @classmethod
    def _no_tokens_without_echo(cls, echo: bool | None, info: ValidationInfo) -> bool | None:
        if info.data.get("max_tokens") == 0 and not echo:
            raise PydanticCustomError("without_echo", "it must be true when 'max_tokens' is 0")
        return echo

    @field_validator("best_of")
    @classmethod
    def _best_of_is_n(cls, number: int | None, info: ValidationInfo) -> int | None:
        if number is not None and number != (info.data.get("n") or 1):
            reason = "Only the value of 'n' is supported: of several answers none is chosen as the best"
            raise PydanticCustomError("unsupported_parameter", "{reason}", {"reason": reason})
        return number

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or as token IDs."""
        prompt: Any = self.prompt
        is_one = isinstance(prompt, str) or isinstance(prompt[0], int)
        return [prompt] if is_one else prompt

    @property
    def num_choices(self) -> int:
        """Answers to all prompts together."""
        return len(self.prompts) * (self.n or 1)
