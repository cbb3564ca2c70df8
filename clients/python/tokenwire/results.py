"""What the client's calls return, as plain immutable data, and how a stream adds up to a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from tokenwire.v1 import generation_pb2

if TYPE_CHECKING:
    from tokenwire.options import Message
    from tokenwire.v1 import tokenizer_pb2

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "cancelled", "error"]
"""Why a generation ended: it was complete (or met a stop string), it reached `max_tokens` or the model's
context, it called a tool, it was cancelled, or it failed."""

_FINISH_REASONS: dict[int, FinishReason] = {
    generation_pb2.FINISH_REASON_STOP: "stop",
    generation_pb2.FINISH_REASON_LENGTH: "length",
    generation_pb2.FINISH_REASON_TOOL_CALLS: "tool_calls",
    generation_pb2.FINISH_REASON_CANCELLED: "cancelled",
    generation_pb2.FINISH_REASON_ERROR: "error",
}


@dataclass(slots=True, frozen=True)
class Usage:
    """Tokens counted for one request; `cached_prompt_tokens` of the prompt's came from the prefix cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int = 0


@dataclass(slots=True, frozen=True)
class ToolCall:
    """A call of a tool by the model; `arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(slots=True, frozen=True)
class ToolCallDelta:
    """A piece of the tool call number `index`. `id` and `name` come with its first piece."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(slots=True, frozen=True)
class Delta:
    """What is new in a stream. `finish_reason` and `usage` come with the last one.

    `token_ids`, and in the first delta `prompt_token_ids`, are there when `return_token_ids` was set.
    """

    text: str
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    token_ids: tuple[int, ...] = ()
    prompt_token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    stop_string: str | None = None
    usage: Usage | None = None


@dataclass(slots=True, frozen=True)
class Generation:
    """A whole answer. `token_ids` and `prompt_token_ids` are there when `return_token_ids` was set."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    token_ids: tuple[int, ...] = ()
    prompt_token_ids: tuple[int, ...] = ()
    stop_string: str | None = None

    @property
    def message(self) -> Message:
        """The answer as a message, to append to the conversation."""
        message: Message = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        return message


@dataclass(slots=True, frozen=True)
class ModelCard:
    """A model that is served.

    Attributes:
        name: that requests use.
        max_model_len: most tokens of prompt and output together.
        created_unix_s: when it was loaded, in seconds since the Unix epoch.
        supports_chat: whether it has a chat template.
        root: the name of the model that this is another name of, or its own.
    """

    name: str
    max_model_len: int
    created_unix_s: int
    supports_chat: bool
    root: str


class Collector:
    """Adds a stream's deltas up to a Generation."""

    def __init__(self) -> None:
        self._deltas: list[Delta] = []

    def add(self, delta: Delta) -> None:
        self._deltas.append(delta)

    def generation(self) -> Generation:
        """The whole, once the stream has ended."""
        deltas = self._deltas
        calls: dict[int, list[ToolCallDelta]] = {}
        for piece in (piece for delta in deltas for piece in delta.tool_calls):
            calls.setdefault(piece.index, []).append(piece)
        return Generation(
            text="".join(delta.text for delta in deltas),
            finish_reason=next((d.finish_reason for d in reversed(deltas) if d.finish_reason), "error"),
            usage=next((delta.usage for delta in reversed(deltas) if delta.usage), Usage(0, 0)),
            reasoning="".join(delta.reasoning for delta in deltas),
            tool_calls=tuple(_whole_call(pieces) for _, pieces in sorted(calls.items())),
            token_ids=tuple(token for delta in deltas for token in delta.token_ids),
            prompt_token_ids=tuple(token for delta in deltas for token in delta.prompt_token_ids),
            stop_string=next((d.stop_string for d in deltas if d.stop_string is not None), None),
        )


def delta_from_proto(response: tokenizer_pb2.TokenizerGenerateResponse) -> Delta:
    """What a message of a Generate stream says."""
    usage = None
    if response.HasField("usage"):
        usage = Usage(
            response.usage.prompt_tokens,
            response.usage.completion_tokens,
            response.usage.cached_prompt_tokens,
        )
    return Delta(
        text=response.text_delta,
        reasoning=response.reasoning_delta,
        tool_calls=tuple(
            ToolCallDelta(call.index, call.id, call.name, call.arguments_delta)
            for call in response.tool_calls
        ),
        token_ids=tuple(response.token_ids),
        prompt_token_ids=tuple(response.prompt_token_ids),
        finish_reason=_FINISH_REASONS.get(response.finish_reason),
        stop_string=response.stop_string if response.HasField("stop_string") else None,
        usage=usage,
    )


def models_from_proto(response: tokenizer_pb2.ListModelsResponse) -> list[ModelCard]:
    """The models of a ListModels answer."""
    return [
        ModelCard(card.name, card.max_model_len, card.created_unix_s, card.supports_chat, card.root)
        for card in response.models
    ]


def _whole_call(pieces: list[ToolCallDelta]) -> ToolCall:
    return ToolCall(
        id="".join(piece.id for piece in pieces),
        name="".join(piece.name for piece in pieces),
        arguments="".join(piece.arguments for piece in pieces),
    )
