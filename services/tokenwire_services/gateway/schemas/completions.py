"""The body of a plain completion request."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from tokenwire_services.gateway.schemas.base import MAX_LOGPROBS, GenerationRequest, UInt32, only

TokenIds = Annotated[list[UInt32], Field(min_length=1, fail_fast=True)]
Texts = Annotated[list[str], Field(min_length=1, max_length=256, fail_fast=True)]
TokenIdLists = Annotated[list[TokenIds], Field(min_length=1, max_length=256, fail_fast=True)]


class CompletionRequest(GenerationRequest):
    """One or more prompts to continue, each by itself."""

    prompt: Annotated[
        str | TokenIds | Texts | TokenIdLists,
        Field(description="A text, its token IDs, or a list of either."),
    ]

    logprobs: Annotated[
        int | None,
        Field(ge=0, le=MAX_LOGPROBS, description="Return each token's log-probability, and alternatives."),
    ] = None

    echo: Annotated[bool | None, only(False)] = None
    best_of: Annotated[int | None, Field(ge=1), only(1)] = None
    suffix: Annotated[str | None, only("")] = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or as token IDs."""
        prompt: Any = self.prompt
        is_one = isinstance(prompt, str) or isinstance(prompt[0], int)
        return [prompt] if is_one else prompt
