"""How a chat completion is written: as chunks, or whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from tokenwire.v1 import tokenizer_pb2
from tokenwire_services.gateway.field_names import Endpoint
from tokenwire_services.gateway.generation import Generation
from tokenwire_services.gateway.logprobs import chat_logprobs
from tokenwire_services.gateway.output import FINISH_REASONS, Chunk, Header, usage


class ChatOutput:
    """The answer to one chat completion request; its only generation has index 0."""

    endpoint: Endpoint = "chat"

    def __init__(self, header: Header, include_usage: bool) -> None:
        self._header = header
        self._chunk = chunk = Chunk(header, "chat.completion.chunk", include_usage)
        self._before_text = chunk.before + b'{"index":0,"delta":{"content":'
        self._after_text = b'},"logprobs":null,"finish_reason":null}' + chunk.after

    def opening(self) -> bytes:
        """The assistant's turn begins."""
        return self._event({"role": "assistant", "content": ""})

    def delta(self, index: int, generation: Generation) -> bytes:
        """Reasoning, then text, then tool calls: the order in which models produce them."""
        events = b""
        if generation.reasoning:
            events = self._event({"reasoning_content": "".join(generation.reasoning)})
            generation.reasoning.clear()
        if generation.logprobs:
            delta = {"content": generation.take_text() if generation.texts else ""}
            events += self._event(delta, logprobs=chat_logprobs(generation.take_logprobs()))
        elif generation.texts:
            events += self._before_text + orjson.dumps(generation.take_text()) + self._after_text
        if generation.tool_calls:
            events += self._event({"tool_calls": [_call_delta(delta) for delta in generation.tool_calls]})
            generation.tool_calls.clear()
        return events

    def finish(self, index: int, generation: Generation) -> bytes:
        """Why the answer ended."""
        return self._event({}, FINISH_REASONS[generation.finish_reason])

    def closing(self, generations: Sequence[Generation]) -> bytes:
        """The usage, when asked for, and [DONE]."""
        return self._chunk.closing(generations)

    def whole(self, generations: Sequence[Generation]) -> bytes:
        """The answer in one piece."""
        (generation,) = generations
        message: dict[str, Any] = {"role": "assistant", "content": generation.take_text()}
        if generation.reasoning:
            message["reasoning_content"] = "".join(generation.reasoning)
        if generation.tool_calls:
            message["tool_calls"] = _whole_calls(generation.tool_calls)
            message["content"] = message["content"] or None
        choice = {
            "index": 0,
            "message": message,
            "logprobs": chat_logprobs(generation.take_logprobs()),
            "finish_reason": FINISH_REASONS[generation.finish_reason],
        }
        fields = self._header.fields("chat.completion")
        return orjson.dumps({**fields, "choices": [choice], "usage": usage(generations)})

    def _event(
        self,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._chunk.event(choice)


def _call_delta(delta: tokenizer_pb2.ToolCallDelta) -> dict[str, Any]:
    """A piece of a call: the first carries its id and name."""
    function = {"arguments": delta.arguments_delta}
    if not delta.id:
        return {"index": delta.index, "function": function}
    function = {"name": delta.name, **function}
    return {"index": delta.index, "id": delta.id, "type": "function", "function": function}


def _whole_calls(deltas: Sequence[tokenizer_pb2.ToolCallDelta]) -> list[dict[str, Any]]:
    """The calls that the pieces make."""
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        empty = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        call = calls.setdefault(delta.index, empty)
        call["id"] += delta.id
        call["function"]["name"] += delta.name
        call["function"]["arguments"] += delta.arguments_delta
    return [calls[index] for index in sorted(calls)]
