"""The body of a chat completion request."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from tokenwire_services.gateway.schemas.base import MAX_LOGPROBS, GenerationRequest, only
from tokenwire_services.gateway.schemas.strict import Strict


class TextPart(Strict):
    """A part of a message's content. Only text is supported."""

    type: Annotated[Literal["text", "image_url", "input_audio", "file", "refusal"], only("text")]
    text: str


class FunctionCall(Strict):
    """A call that the model made."""

    name: str
    arguments: Annotated[str, Field(description="A JSON object, as text.")]


class ToolCall(Strict):
    """A call that an assistant message makes."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Strict):
    """One message of the conversation. What an answer carries is taken back unchanged."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(min_length=1, fail_fast=True)] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: Annotated[str | None, only()] = None
    annotations: Annotated[list[Any] | None, only([])] = None
    audio: Annotated[dict[str, Any] | None, only()] = None
    function_call: Annotated[dict[str, Any] | None, only()] = None

    @model_validator(mode="after")
    def _has_what_its_role_needs(self) -> Message:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise PydanticCustomError(
                "content_missing", "a message needs 'content', unless an assistant's calls tools"
            )
        if self.role == "tool" and self.tool_call_id is None:
            raise PydanticCustomError("tool_call_id_missing", "a message of role 'tool' needs 'tool_call_id'")
        return self


class FunctionDefinition(Strict):
    """A function that the model may call."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: Annotated[dict[str, Any] | None, Field(description="JSON Schema of the parameters.")] = None
    strict: Annotated[bool | None, Field(description="Keep arguments to the schema.")] = None


class Tool(Strict):
    """A tool that the model may call."""

    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(Strict):
    """Names a function."""

    name: Annotated[str, Field(min_length=1, max_length=256)]


class NamedToolChoice(Strict):
    """The tool that must be called."""

    type: Literal["function"]
    function: FunctionName


class Conversation(Strict):
    """A conversation, and how it becomes a prompt."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    tools: Annotated[list[Tool] | None, Field(fail_fast=True)] = None
    tool_choice: Annotated[
        Literal["auto", "none", "required"] | NamedToolChoice | None,
        Field(description="Whether a tool may be called, or must be, or which one."),
    ] = None
    parallel_tool_calls: Annotated[
        bool | None, Field(description="Whether an answer may have several calls; default true.")
    ] = None
    reasoning_effort: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=32,
            description="How hard a model that reasons should do so: none, low, medium, high, ...",
        ),
    ] = None
    add_generation_prompt: Annotated[
        bool | None, Field(description="End the prompt with the header of the answer; default true.")
    ] = None
    continue_final_message: Annotated[
        bool | None, Field(description="Continue the last message instead of answering it.")
    ] = None
    chat_template_kwargs: Annotated[
        dict[str, Any] | None, Field(description="Variables for the chat template.")
    ] = None
    chat_template: Annotated[
        str | None, Field(description="Used instead of the model's own, where the operator allows it.")
    ] = None
    documents: Annotated[
        list[dict[str, Any]] | None, Field(description="For templates that cite documents.")
    ] = None


class ChatCompletionRequest(GenerationRequest, Conversation):
    """A conversation to continue."""

    max_completion_tokens: Annotated[
        int | None, Field(ge=1, le=2**32 - 1, description="Takes precedence over max_tokens.")
    ] = None

    logprobs: Annotated[bool | None, Field(description="Return each token's log-probability.")] = None
    top_logprobs: Annotated[
        int | None, Field(ge=0, le=MAX_LOGPROBS, description="Alternatives to return with each token.")
    ] = None

    modalities: Annotated[list[str] | None, only(["text"])] = None
    audio: Annotated[dict[str, Any] | None, only()] = None
    prediction: Annotated[dict[str, Any] | None, only()] = None
    verbosity: Annotated[str | None, only()] = None
    web_search_options: Annotated[dict[str, Any] | None, only()] = None
    functions: Annotated[list[Any] | None, only()] = None
    function_call: Annotated[str | dict[str, Any] | None, only()] = None

    @field_validator("top_logprobs")
    @classmethod
    def _alternatives_belong_to_logprobs(cls, number: int | None, info: ValidationInfo) -> int | None:
        if number and not info.data.get("logprobs"):
            raise PydanticCustomError("without_logprobs", "it is only allowed when 'logprobs' is true")
        return number
