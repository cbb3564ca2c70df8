"""How a chat completion is written: as chunks, or whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from tokenwire.v1 import tokenizer_pb2
from tokenwire_services.gateway.field_names import FieldNames
from tokenwire_services.gateway.generation import Generation
from tokenwire_services.gateway.logprobs import chat_logprobs, prompt_logprobs
from tokenwire_services.gateway.output import FINISH_REASONS, Chunk, Header, usage


class ChatOutput:
    """The answer to one chat completion request: a choice for each of its samples."""

    def __init__(self, header: Header, names: FieldNames, include_usage: bool, num_choices: int = 1) -> None:
        self.names = names
        self._header = header
        self._chunk = chunk = Chunk(header, "chat.completion.chunk", include_usage)
        self._before_text = [
            chunk.before + b'{"index":%d,"delta":{"content":' % index for index in range(num_choices)
        ]
        self._after_text = b'},"logprobs":null,"finish_reason":null}' + chunk.after

    def opening(self, generations: Sequence[Generation]) -> bytes:
        """The assistant's turn begins, in each choice; the prompt's token IDs, when asked for."""
        events = b""
        further = _about_prompt(generations[0])
        for index in range(len(generations)):
            events += self._event(index, {"role": "assistant", "content": ""}, further=further)
            further = {}
        return events

    def delta(self, index: int, generation: Generation) -> bytes:
        """Reasoning, then text, then tool calls: the order in which models produce them."""
        events = b""
        if generation.reasoning:
            events = self._event(index, {"reasoning_content": "".join(generation.reasoning)})
            generation.reasoning.clear()
        if generation.logprobs or generation.token_ids:
            delta = {"content": generation.take_text() if generation.texts else ""}
            events += self._event(index, delta, **_about_tokens(generation))
        elif generation.texts:
            events += self._before_text[index] + orjson.dumps(generation.take_text()) + self._after_text
        if generation.tool_calls:
            calls = [_call_delta(delta) for delta in _merged(generation.tool_calls)]
            events += self._event(index, {"tool_calls": calls})
            generation.tool_calls.clear()
        return events

    def around_text(self, index: int) -> tuple[bytes, bytes]:
        """The bytes around a delta's text."""
        return self._before_text[index], self._after_text

    def finish(self, index: int, generation: Generation) -> bytes:
        """Why the answer ended."""
        return self._event(index, {}, FINISH_REASONS[generation.finish_reason])

    def closing(self, generations: Sequence[Generation]) -> bytes:
        """The usage, when asked for, and [DONE]."""
        return self._chunk.closing(generations)

    def whole(self, generations: Sequence[Generation]) -> bytes:
        """The answer in one piece."""
        choices = [_whole_choice(index, generation) for index, generation in enumerate(generations)]
        fields = self._header.fields("chat.completion")
        about_prompt = _about_prompt(generations[0])
        return orjson.dumps({**fields, "choices": choices, "usage": usage(generations), **about_prompt})

    def _event(
        self,
        index: int,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
        token_ids: list[int] | None = None,
        further: dict[str, Any] | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        if token_ids is not None:
            choice["token_ids"] = token_ids
        return self._chunk.event(choice, further)


def _whole_choice(index: int, generation: Generation) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": generation.take_text()}
    if generation.reasoning:
        message["reasoning_content"] = "".join(generation.reasoning)
    if generation.tool_calls:
        message["tool_calls"] = _whole_calls(generation.tool_calls)
        message["content"] = message["content"] or None
    return {
        "index": index,
        "message": message,
        "finish_reason": FINISH_REASONS[generation.finish_reason],
        **_about_tokens(generation),
    }


def _about_tokens(generation: Generation) -> dict[str, Any]:
    """A choice's log-probabilities, and its token IDs where they were asked for."""
    about: dict[str, Any] = {"logprobs": chat_logprobs(generation.take_logprobs())}
    if generation.token_ids:
        about["token_ids"] = generation.take_token_ids()
    return about


def _about_prompt(generation: Generation) -> dict[str, Any]:
    """What was asked about the prompt, as vLLM writes it beside the choices."""
    if (prompt := generation.prompt) is None:
        return {}
    about: dict[str, Any] = {"prompt_token_ids": list(prompt.prompt_token_ids)}
    if prompt.HasField("prompt_logprobs"):
        about["prompt_logprobs"] = prompt_logprobs(prompt)
    return about


def _merged(deltas: Sequence[tokenizer_pb2.ToolCallDelta]) -> list[tokenizer_pb2.ToolCallDelta]:
    """What arrived of each call in one piece."""
    calls: list[tokenizer_pb2.ToolCallDelta] = []
    for delta in deltas:
        if calls and calls[-1].index == delta.index:
            calls[-1].arguments_delta += delta.arguments_delta
        else:
            calls.append(delta)
    return calls


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
