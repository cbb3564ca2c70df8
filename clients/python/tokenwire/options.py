"""What the client's calls take.

A caller writes plain dictionaries and keywords, which are type-checked as such; what is left out is left to
the server's defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from tokenwire.results import ToolCall


class _MessageRole(TypedDict):
    role: Literal["system", "developer", "user", "assistant", "tool"]


class Message(_MessageRole, total=False):
    """One message of a conversation: `{"role": "user", "content": "Hello"}`."""

    content: str | None
    name: str
    """The participant's."""
    tool_calls: Sequence[ToolCall] | None
    """Calls that an assistant message makes."""
    tool_call_id: str
    """The call that a tool message answers."""
    reasoning_content: str
    """The reasoning that preceded an assistant message's content."""


class _ToolName(TypedDict):
    name: str


class Tool(_ToolName, total=False):
    """A function that the model may call."""

    description: str
    parameters: Mapping[str, Any]
    """JSON Schema of its parameters."""
    strict: bool
    """Whether arguments must follow the schema exactly."""


class CallOptions(TypedDict, total=False):
    """What every call takes."""

    timeout: float
    """Seconds until the call fails with DeadlineExceededError. Left out: the client's."""


class ModelOptions(CallOptions, total=False):
    """What every call that needs a model takes."""

    model: str
    """Served model name. Left out: the only model."""


class Constraint(TypedDict, total=False):
    """A language that the output must belong to: exactly one of these."""

    json_schema: Mapping[str, Any] | str
    """A JSON Schema, also as text."""
    json_object: bool
    """Any JSON object."""
    regex: str
    """For the whole output."""
    grammar: str
    """In Lark or GBNF syntax."""
    choice: Sequence[str]
    """One of these texts."""


class TemplateOptions(ModelOptions, total=False):
    """How a conversation becomes a prompt."""

    tools: Sequence[Tool]
    """Functions that the model may call."""
    tool_choice: str
    """Whether and which tool to call: "auto" (default), "none", "required", or a tool's name."""
    parallel_tool_calls: bool
    """Whether the model may make several calls in one answer. Default true."""
    reasoning_effort: str
    """How hard a model that reasons should do so, such as "low". Left out: the template's default."""
    add_generation_prompt: bool
    """End the prompt with the header of a new assistant turn. Default true."""
    continue_final_message: bool
    """Leave the last message open, so that the model continues it."""
    template_kwargs: Mapping[str, Any]
    """Further variables for the chat template."""


class SamplingOptions(ModelOptions, total=False):
    """How an answer is generated."""

    temperature: float
    """0 is greedy decoding. Default: the model's, or 1."""
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    """Makes sampling repeatable."""
    max_tokens: int
    """Most tokens to generate. Left out: until the context is full."""
    stop: str | Sequence[str]
    """Strings that end the generation."""
    include_stop_string: bool
    """Keep the stop string at the end of the text."""
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    constraint: Constraint
    """What the output must look like."""
    skip_special_tokens: bool
    """Leave special tokens out of the text. Default true."""
    return_token_ids: bool
    request_id: str
    """To find the request again in logs. Left out: the server chooses one."""


class GenerateOptions(SamplingOptions, total=False):
    """What `generate` takes besides the prompt."""

    add_special_tokens: bool
    """Whether a text prompt gets the tokenizer's special tokens (BOS). Default true."""


class ChatOptions(SamplingOptions, TemplateOptions, total=False):
    """What `chat` takes besides the messages."""


class TokenizeOptions(TemplateOptions, total=False):
    """What `tokenize` takes besides the text or the messages."""

    add_special_tokens: bool
    """Whether text gets the tokenizer's special tokens (BOS). Default true."""


class DetokenizeOptions(ModelOptions, total=False):
    """What `detokenize` takes besides the token IDs."""

    skip_special_tokens: bool
    """Leave special tokens out of the text. Default true."""
