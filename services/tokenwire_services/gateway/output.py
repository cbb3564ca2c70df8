"""What the two response modes need of an endpoint: how its chunks and its whole answers are written."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import orjson

from tokenwire.v1 import generation_pb2
from tokenwire_services.gateway.field_names import FieldNames
from tokenwire_services.gateway.generation import Generation
from tokenwire_services.gateway.schemas.base import StreamOptions

FINISH_REASONS = {
    generation_pb2.FINISH_REASON_STOP: "stop",
    generation_pb2.FINISH_REASON_LENGTH: "length",
    generation_pb2.FINISH_REASON_TOOL_CALLS: "tool_calls",
}
"""FinishReason as OpenAI writes it; the others end in an error."""


class Output(Protocol):
    """Writes the answer to one HTTP request. Indices count its generations."""

    names: FieldNames
    """What errors call the request's fields."""

    def opening(self, generations: Sequence[Generation]) -> bytes:
        """The events before any text."""

    def delta(self, index: int, generation: Generation) -> bytes:
        """The events for what has arrived and was not taken yet; empty when that is nothing."""

    def around_text(self, index: int) -> tuple[bytes, bytes] | None:
        """What stands before and after the JSON text in an event with nothing but text.

        Asked for once the opening was written; None: no such event may be written.
        """

    def finish(self, index: int, generation: Generation) -> bytes:
        """The event for a generation's end."""

    def closing(self, generations: Sequence[Generation]) -> bytes:
        """The events after all ends."""

    def whole(self, generations: Sequence[Generation]) -> bytes:
        """The answer in one piece, as JSON."""


class Header:
    """The fields that every chunk of an answer, and a whole answer, begin with.

    Attributes:
        id: the answer's, with the name that the caller gave to the request, if any.
        request_id: of the request below, unique whatever callers say.
    """

    def __init__(self, id_prefix: str, model: str, name: str | None = None) -> None:
        self.request_id = f"{id_prefix}-{os.urandom(16).hex()}"
        self.id = self.request_id if name is None else f"{id_prefix}-{name}"
        self.created = int(time.time())
        self.model = model

    def fields(self, kind: str) -> dict[str, Any]:
        """The fields, with the kind of object that they begin."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


class Chunk:
    """What the events of one answer have in common, as constant bytes where that is possible.

    `before` ends where the list of choices begins, `after` begins where it ends.
    """

    def __init__(self, header: Header, kind: str, options: StreamOptions | None) -> None:
        self._fields = header.fields(kind)
        self._include_usage = options is not None and bool(options.include_usage)
        self.before = b"data: " + orjson.dumps(self._fields)[:-1] + b',"choices":['
        self.after = b'],"usage":null}\n\n' if self._include_usage else b"]}\n\n"
        self.counts_tokens = options is not None and options.counts_tokens
        """Whether each event counts the tokens so far, so that `after` is in none."""

    def event(
        self, choice: dict[str, Any], generation: Generation, further: dict[str, Any] | None = None
    ) -> bytes:
        """The event with one choice of a generation; `further` fields stand beside the list of choices."""
        if not (further or self.counts_tokens):
            return self.before + orjson.dumps(choice) + self.after
        fields = {**self._fields, "choices": [choice], **(further or {})}
        if self.counts_tokens:
            fields["usage"] = usage_so_far(generation)
        elif self._include_usage:
            fields["usage"] = None
        return b"data: " + orjson.dumps(fields) + b"\n\n"

    def closing(self, usage: Callable[[], dict[str, Any]]) -> bytes:
        """The event with the usage, when it was asked for, and the end of the stream."""
        done = b"data: [DONE]\n\n"
        if not self._include_usage:
            return done
        return b"data: " + orjson.dumps({**self._fields, "choices": [], "usage": usage()}) + b"\n\n" + done


def ending(generation: Generation) -> dict[str, Any]:
    """The fields of a choice that say why it ended; `stop_reason` is vLLM's."""
    return {
        "finish_reason": FINISH_REASONS[generation.finish_reason],
        "stop_reason": generation.stop_reason,
    }


def usage(generations: Sequence[Generation]) -> dict[str, Any]:
    """The tokens of all generations together: a prompt counts once, however many samples it has."""
    prompt = sum(generation.usage.prompt_tokens for generation in generations)
    completion = sum(generation.usage.completion_tokens for generation in generations)
    cached = sum(generation.usage.cached_prompt_tokens for generation in generations)
    return {**_counts(prompt, completion), "prompt_tokens_details": {"cached_tokens": cached}}


def usage_so_far(generation: Generation) -> dict[str, Any]:
    """One generation's tokens while it runs; its prompt's IDs must have been asked for."""
    prompt = 0 if generation.prompt is None else len(generation.prompt.prompt_token_ids)
    return _counts(prompt, generation.num_detailed)


def _counts(prompt: int, completion: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
