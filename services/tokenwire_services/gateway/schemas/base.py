"""What both generation endpoints take, and the types that their fields share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from tokenwire_services.gateway.schemas.strict import WHOLE, Tolerant
from tokenwire_services.gateway.schemas.structured import ResponseFormat, StructuredOutputs
from tokenwire_services.gateway.schemas.unused import Unused, only

_LARGEST_UINT32 = 2**32 - 1
_LARGEST_FLOAT32 = 3.4e38
_MOST_BIASES = 1024
_LONGEST_STOP_BYTES = 1024
_LONGEST_BAD_WORD_BYTES = 256


def _check_stop(text: str) -> str:
    size = len(text.encode())
    if size > _LONGEST_STOP_BYTES:
        reason = f"a stop string of {size} bytes; expected at most {_LONGEST_STOP_BYTES}"
        raise PydanticCustomError("stop_too_long", "{reason}", {"reason": reason})
    return text


def _bound_biases(bias: Any) -> Any:
    """Refuse too many before each is looked at."""
    if isinstance(bias, dict) and len(bias) > _MOST_BIASES:
        context = {"count": len(bias), "limit": _MOST_BIASES}
        raise PydanticCustomError("too_many_biases", "{count} tokens; expected at most {limit}", context)
    return bias


def _check_token_keys(bias: dict[str, float]) -> dict[str, float]:
    for key in bias:
        if not (key.isascii() and key.isdigit() and len(key) <= 10 and int(key) <= _LARGEST_UINT32):
            raise PydanticCustomError("not_a_token_id", "its keys must be token IDs, such as '50256'")
    return bias


def _check_bad_word(text: str) -> str:
    if not text.strip() or len(text.encode()) > _LONGEST_BAD_WORD_BYTES:
        reason = f"expected a word of at most {_LONGEST_BAD_WORD_BYTES} bytes"
        raise PydanticCustomError("bad_word_size", "{reason}", {"reason": reason})
    return text


Float = Annotated[float, Field(ge=-_LARGEST_FLOAT32, le=_LARGEST_FLOAT32)]
UInt32 = Annotated[int, Field(ge=0, le=_LARGEST_UINT32)]
Count = Annotated[UInt32, WHOLE]
PositiveCount = Annotated[int, Field(ge=1, le=_LARGEST_UINT32), WHOLE]
Bias = Annotated[float, Field(ge=-100, le=100)]
LogitBias = Annotated[dict[str, Bias], BeforeValidator(_bound_biases), AfterValidator(_check_token_keys)]
BadWord = Annotated[str, AfterValidator(_check_bad_word)]
StopString = Annotated[str, Field(min_length=1), AfterValidator(_check_stop)]
StopStrings = Annotated[list[StopString], Field(max_length=16, fail_fast=True)]
MAX_LOGPROBS = 20
"""Most alternatives a token."""
MAX_SAMPLES = 128
"""Most answers to a prompt."""
Alternatives = Annotated[int, Field(ge=0, le=MAX_LOGPROBS), WHOLE]


class StreamOptions(Tolerant):
    """How to stream."""

    include_usage: Annotated[
        bool | None, Field(description="End the stream with a chunk that counts the tokens.")
    ] = None
    continuous_usage_stats: Annotated[
        bool | None, Field(description="With include_usage: count the tokens so far in every chunk.")
    ] = None
    include_obfuscation: Annotated[bool | None, only(False)] = None

    @property
    def counts_tokens(self) -> bool:
        """Whether every chunk counts the tokens so far."""
        return bool(self.include_usage and self.continuous_usage_stats)


class GenerationRequest(Unused):
    """What a chat completion and a plain completion have in common."""

    request_id: Annotated[
        str | None, Field(min_length=1, max_length=128, description="The answer's id, behind a prefix.")
    ] = None
    model: Annotated[
        str | None, Field(min_length=1, description="Name of a served model; left out: the only one.")
    ] = None
    stream: Annotated[bool | None, Field(description="Send the answer as it is produced.")] = None
    stream_options: StreamOptions | None = None

    max_tokens: Annotated[PositiveCount | None, Field(description="Most tokens to generate.")] = None
    min_tokens: Annotated[Count | None, Field(description="Fewest tokens to generate.")] = None
    stop: Annotated[
        StopString | StopStrings | None, Field(description="Up to 16 strings that end the answer.")
    ] = None
    stop_token_ids: Annotated[list[UInt32] | None, Field(max_length=1024, fail_fast=True)] = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None

    truncate_prompt_tokens: Annotated[
        Annotated[int, Field(ge=-1, le=_LARGEST_UINT32), WHOLE] | None,
        Field(description="Most of the prompt's tokens to keep; -1: what fits."),
    ] = None
    truncation_side: Annotated[
        Literal["left", "right"] | None, Field(description="Where it is cut; default left.")
    ] = None

    temperature: Annotated[Float | None, Field(ge=0)] = None
    top_p: Annotated[Float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[
        Annotated[int, Field(ge=-1, le=_LARGEST_UINT32), WHOLE] | None,
        Field(description="0 or -1: all tokens."),
    ] = None
    min_p: Annotated[Float | None, Field(ge=0, le=1)] = None
    presence_penalty: Annotated[Float | None, Field(ge=-2, le=2)] = None
    frequency_penalty: Annotated[Float | None, Field(ge=-2, le=2)] = None
    repetition_penalty: Annotated[Float | None, Field(gt=0)] = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1), WHOLE] | None = None

    logit_bias: Annotated[
        LogitBias | None, Field(description="By token ID: what is added to its logit, from -100 to 100.")
    ] = None
    bad_words: Annotated[
        list[BadWord] | None, Field(max_length=512, fail_fast=True, description="Texts never to produce.")
    ] = None
    allowed_token_ids: Annotated[
        list[UInt32] | None, Field(min_length=1, fail_fast=True, description="No others are produced.")
    ] = None

    n: Annotated[
        Annotated[int, Field(ge=1, le=MAX_SAMPLES), WHOLE] | None,
        Field(description="How many answers to give."),
    ] = None
    prompt_logprobs: Annotated[
        Alternatives | None,
        Field(description="Return the prompt's log-probabilities, and alternatives."),
    ] = None
    return_token_ids: Annotated[
        bool | None, Field(description="Return the token IDs of the prompt and of the answer.")
    ] = None
    priority: Annotated[
        Annotated[int, Field(ge=-100, le=100), WHOLE] | None,
        Field(description="Lower runs first, where priorities count."),
    ] = None
    cache_salt: Annotated[
        str | None,
        Field(
            min_length=1, max_length=256, description="Share cached prompts only with requests of this salt."
        ),
    ] = None
    response_format: Annotated[ResponseFormat | None, Field(description="What the answer looks like.")] = None
    structured_outputs: Annotated[
        StructuredOutputs | None, Field(description="What the answer looks like, in vLLM's terms.")
    ] = None

    @field_validator("stream_options")
    @classmethod
    def _options_belong_to_streams(
        cls, options: StreamOptions | None, info: ValidationInfo
    ) -> StreamOptions | None:
        if options is not None and not info.data.get("stream"):
            raise PydanticCustomError("without_stream", "it is only allowed when 'stream' is true")
        return options

    @field_validator("structured_outputs")
    @classmethod
    def _looks_like_one_thing(
        cls, outputs: StructuredOutputs | None, info: ValidationInfo
    ) -> StructuredOutputs | None:
        asked = info.data.get("response_format")
        if outputs is not None and asked is not None and asked.type != "text":
            raise PydanticCustomError("two_constraints", "it excludes 'response_format'; send one of the two")
        return outputs

    @field_validator("prompt_logprobs")
    @classmethod
    def _prompt_logprobs_are_not_streamed(cls, number: int | None, info: ValidationInfo) -> int | None:
        if number is not None and info.data.get("stream"):
            raise PydanticCustomError("with_stream", "it is only allowed when 'stream' is false")
        return number

    @property
    def needs_token_ids(self) -> bool:
        """Whether the answer is written with its tokens, or with how many they are."""
        counts_tokens = self.stream_options is not None and self.stream_options.counts_tokens
        return bool(self.return_token_ids or counts_tokens)
