"""How a chat completion is written: as chunks, or whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from tokenwire.v1 import tokenizer_pb2
from tokenwire_services.gateway.field_names import FieldNames
from tokenwire_services.gateway.generation import Generation
from tokenwire_services.gateway.logprobs import chat_logprobs, prompt_logprobs
from tokenwire_services.gateway.output import Chunk, Header, ending, usage
from tokenwire_services.gateway.schemas.chat import ChatCompletionRequest


class ChatOutput:
    """The answer to one chat completion request: a choice for each of its samples."""

    def __init__(self, header: Header, names: FieldNames, body: ChatCompletionRequest) -> None:
        self.names = names
        self._header = header
        self._chunk = chunk = Chunk(header, "chat.completion.chunk", body.stream_options)
        self._return_token_ids = bool(body.return_token_ids)
        self._include_reasoning = body.include_reasoning is not False
        self._echo = body.messages[-1].text if body.echo and body.messages[-1].role == "assistant" else ""
        self._before_text = [
            chunk.before + b'{"index":%d,"delta":{"content":' % index for index in range(body.n or 1)
        ]
        self._after_text = b'},"logprobs":null,"finish_reason":null}' + chunk.after

    def opening(self, generations: Sequence[Generation]) -> bytes:
        """The assistant's turn begins, in each choice; the prompt's token IDs, when asked for."""
        events = b""
        about_prompt = self._about_prompt(generations[0])
        for index, generation in enumerate(generations):
            role = {"role": "assistant", "content": "", "refusal": None}
            events += self._event(index, generation, role, about_prompt=about_prompt)
            about_prompt = {}
            if self._echo:
                events += self._event(index, generation, {"content": self._echo})
        return events

    def delta(self, index: int, generation: Generation) -> bytes:
        """Reasoning, then text, then tool calls: the order in which models produce them."""
        events = b""
        if generation.reasoning:
            reasoning = "".join(generation.reasoning)
            generation.reasoning.clear()
            if self._include_reasoning:
                events = self._event(index, generation, _under_both_names(reasoning))
        if generation.logprobs or generation.token_ids:
            about = self._about_tokens(generation)
            text = generation.take_text() if generation.texts else ""
            if text or len(about) > 1 or about["logprobs"]:
                events += self._event(index, generation, {"content": text}, about)
        elif generation.texts and self._chunk.counts_tokens:
            events += self._event(index, generation, {"content": generation.take_text()})
        elif generation.texts:
            events += self._before_text[index] + orjson.dumps(generation.take_text()) + self._after_text
        if generation.tool_calls:
            for piece in _pieces(generation.tool_calls):
                events += self._event(index, generation, {"tool_calls": [piece]})
            generation.tool_calls.clear()
        return events

    def around_text(self, index: int) -> tuple[bytes, bytes] | None:
        """The bytes around a delta's text."""
        return None if self._chunk.counts_tokens else (self._before_text[index], self._after_text)

    def finish(self, index: int, generation: Generation) -> bytes:
        """Why the answer ended."""
        return self._event(index, generation, {}, ending(generation))

    def closing(self, generations: Sequence[Generation]) -> bytes:
        """The usage, when asked for, and [DONE]."""
        return self._chunk.closing(lambda: usage(generations))

    def whole(self, generations: Sequence[Generation]) -> bytes:
        """The answer in one piece."""
        choices = [self._whole_choice(index, generation) for index, generation in enumerate(generations)]
        fields = {**self._header.fields("chat.completion"), "system_fingerprint": None}
        about_prompt = self._about_prompt(generations[0])
        return orjson.dumps({**fields, "choices": choices, "usage": usage(generations), **about_prompt})

    def _event(
        self,
        index: int,
        generation: Generation,
        delta: dict[str, Any],
        about: dict[str, Any] | None = None,
        about_prompt: dict[str, Any] | None = None,
    ) -> bytes:
        """A choice with a delta; `about` replaces its further fields, and adds to them."""
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **(about or {})}
        return self._chunk.event(choice, generation, about_prompt)

    def _whole_choice(self, index: int, generation: Generation) -> dict[str, Any]:
        content = self._echo + generation.take_text()
        message: dict[str, Any] = {
            "role": "assistant",
            "content": content,
            "refusal": None,
            "annotations": [],
        }
        if generation.reasoning and self._include_reasoning:
            message |= _under_both_names("".join(generation.reasoning))
        if generation.tool_calls:
            message["tool_calls"] = _whole_calls(generation.tool_calls)
            message["content"] = content or None
        return {"index": index, "message": message, **self._about_tokens(generation), **ending(generation)}

    def _about_tokens(self, generation: Generation) -> dict[str, Any]:
        """A choice's log-probabilities, and its token IDs where they were asked for."""
        about: dict[str, Any] = {"logprobs": chat_logprobs(generation.take_logprobs())}
        token_ids = generation.take_token_ids()
        if token_ids and self._return_token_ids:
            about["token_ids"] = token_ids
        return about

    def _about_prompt(self, generation: Generation) -> dict[str, Any]:
        """What was asked about the prompt, as vLLM writes it beside the choices."""
        prompt, about = generation.prompt, dict[str, Any]()
        if prompt is not None and self._return_token_ids:
            about["prompt_token_ids"] = list(prompt.prompt_token_ids)
        if prompt is not None and prompt.HasField("prompt_logprobs"):
            about["prompt_logprobs"] = prompt_logprobs(prompt)
        return about


def _under_both_names(reasoning: str) -> dict[str, str]:
    """Reasoning under the name that most clients know, and the one that vLLM gives it."""
    return {"reasoning_content": reasoning, "reasoning": reasoning}


def _pieces(deltas: Sequence[tokenizer_pb2.ToolCallDelta]) -> list[dict[str, Any]]:
    """Pieces of calls as OpenAI streams them: a call's first has its id and name, the others its arguments.

    What arrived of a call's arguments together is one piece.
    """
    pieces: list[dict[str, Any]] = []
    for delta in deltas:
        if delta.id:
            function = {"name": delta.name, "arguments": ""}
            pieces.append({"index": delta.index, "id": delta.id, "type": "function", "function": function})
        if not delta.arguments_delta:
            continue
        if pieces and pieces[-1]["index"] == delta.index and "id" not in pieces[-1]:
            pieces[-1]["function"]["arguments"] += delta.arguments_delta
        else:
            pieces.append({"index": delta.index, "function": {"arguments": delta.arguments_delta}})
    return pieces


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
