"""The body of a chat completion request."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from tokenwire_services.gateway.schemas.base import Alternatives, GenerationRequest, PositiveCount
from tokenwire_services.gateway.schemas.strict import Tolerant
from tokenwire_services.gateway.schemas.unused import Refused, RefusedUnlessFalse, Without, only

_MOST_PIECES = 20_000
_LISTS = ("content", "tool_calls")

Name = Annotated[str, Field(min_length=1, max_length=256)]


class TextPart(Tolerant):
    """A part of a message's content. Only text is supported."""

    type: Annotated[str, only("text")]
    text: str


class FunctionCall(Tolerant):
    """A call that the model made."""

    name: str
    arguments: Annotated[str, Field(description="A JSON object, as text.")]


class ToolCall(Tolerant):
    """A call that an assistant message makes."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


_REQUIRED_BY_ROLE: list[JsonValue] = [
    {
        "if": {"properties": {"role": {"const": "assistant"}}},
        "else": {"required": ["content"], "properties": {"content": {"not": {"type": "null"}}}},
    },
    {
        "if": {"properties": {"role": {"const": "tool"}}},
        "then": {"required": ["tool_call_id"], "properties": {"tool_call_id": {"type": "string"}}},
    },
]
"""What `Message` checks, for the API's description."""


class Message(Tolerant):
    """One message of the conversation. What an answer carries is taken back, whole or in part."""

    model_config = ConfigDict(json_schema_extra={"allOf": _REQUIRED_BY_ROLE})

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: Annotated[
        str | Annotated[list[TextPart], Field(min_length=1, fail_fast=True)] | None,
        Field(validate_default=True, description="Only an assistant's may be null."),
    ] = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall] | None, Field(fail_fast=True)] = None
    tool_call_id: Annotated[str | None, Field(validate_default=True)] = None
    reasoning_content: Annotated[str | None, Field(description="What preceded the content.")] = None
    reasoning: Annotated[str | None, Field(description="The same, under vLLM's name.")] = None
    refusal: Annotated[str | None, Field(description="Stands for content that is null.")] = None
    annotations: Annotated[list[Any] | None, Without] = None
    audio: Refused = None
    function_call: Annotated[Any, only(instead="tool_calls")] = None

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""

    @field_validator("content")
    @classmethod
    def _has_content(cls, content: Any, info: ValidationInfo) -> Any:
        if content is None and info.data.get("role", "assistant") != "assistant":
            raise PydanticCustomError("missing", "required")
        return content

    @field_validator("tool_call_id")
    @classmethod
    def _answers_a_call(cls, call: str | None, info: ValidationInfo) -> str | None:
        if call is None and info.data.get("role") == "tool":
            raise PydanticCustomError("missing", "required")
        return call


class FunctionDefinition(Tolerant):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: Annotated[dict[str, Any] | None, Field(description="JSON Schema of the parameters.")] = None
    strict: Annotated[bool | None, Field(description="Keep arguments to the schema.")] = None


class Tool(Tolerant):
    """A tool that the model may call."""

    type: Literal["function"] = "function"
    function: FunctionDefinition


class FunctionName(Tolerant):
    """Names a function."""

    name: Name


class NamedTool(Tolerant):
    """One of the tools."""

    type: Literal["function"] = "function"
    function: FunctionName


class AllowedTools(Tolerant):
    """Some of the tools, and whether one of them must be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, fail_fast=True)]


class AllowedToolsChoice(Tolerant):
    """Restricts the choice to some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _kind_of_choice(choice: Any) -> str:
    if not isinstance(choice, dict):
        return "a word"
    return "some" if choice.get("type") == "allowed_tools" else "one"


ToolChoice = Annotated[
    Annotated[Literal["auto", "none", "required"] | None, Tag("a word")]
    | Annotated[NamedTool, Tag("one")]
    | Annotated[AllowedToolsChoice, Tag("some")],
    Discriminator(_kind_of_choice),
]


def _bound_the_pieces(messages: Any) -> Any:
    """Refuse what is in so many pieces that taking it apart would keep everybody else waiting."""
    if not isinstance(messages, list):
        return messages
    count = len(messages)
    for message in messages:
        if isinstance(message, dict):
            for key in _LISTS:
                if isinstance(pieces := message.get(key), list):
                    count += len(pieces)
    if count > _MOST_PIECES:
        reason = "expected at most {limit} messages, parts and tool calls together, but got {count}"
        raise PydanticCustomError("too_many_pieces", reason, {"limit": _MOST_PIECES, "count": count})
    return messages


class Conversation(Tolerant):
    """A conversation, and how it becomes a prompt."""

    messages: Annotated[
        list[Message], Field(min_length=1, fail_fast=True), BeforeValidator(_bound_the_pieces)
    ]
    tools: Annotated[list[Tool] | None, Field(max_length=2048, fail_fast=True)] = None
    tool_choice: Annotated[
        ToolChoice, Field(description="Whether a tool may be called, or must be, and which.")
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
    add_special_tokens: RefusedUnlessFalse = None
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
        list[dict[str, Any]] | None, Field(fail_fast=True, description="For templates that cite documents.")
    ] = None


class ChatCompletionRequest(GenerationRequest, Conversation):
    """A conversation to continue."""

    max_completion_tokens: Annotated[
        PositiveCount | None, Field(description="Takes precedence over max_tokens.")
    ] = None

    echo: Annotated[
        bool | None, Field(description="Begin the answer with the assistant's last message, if it is last.")
    ] = None
    include_reasoning: Annotated[bool | None, Field(description="Return reasoning; default true.")] = None

    logprobs: Annotated[bool | None, Field(description="Return each token's log-probability.")] = None
    top_logprobs: Annotated[
        Alternatives | None, Field(description="Alternatives to return with each token.")
    ] = None

    modalities: Annotated[list[str] | None, Field(fail_fast=True), only(["text"])] = None
    prediction: Annotated[dict[str, Any] | None, Without] = None
    verbosity: Annotated[str | None, only("medium")] = None
    audio: Refused = None
    web_search_options: Refused = None
    functions: Annotated[Any, only(instead="tools")] = None
    function_call: Annotated[Any, only(instead="tool_choice")] = None

    @field_validator("top_logprobs")
    @classmethod
    def _alternatives_belong_to_logprobs(cls, number: int | None, info: ValidationInfo) -> int | None:
        if number and not info.data.get("logprobs"):
            raise PydanticCustomError("without_logprobs", "it is only allowed when 'logprobs' is true")
        return number
