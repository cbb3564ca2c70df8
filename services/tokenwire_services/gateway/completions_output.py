"""How a plain completion is written: as chunks, or whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import orjson

from tokenwire_services.gateway.field_names import FieldNames
from tokenwire_services.gateway.generation import Generation
from tokenwire_services.gateway.logprobs import CompletionLogprobs, prompt_logprobs
from tokenwire_services.gateway.output import FINISH_REASONS, Chunk, Header, usage

KIND = "text_completion"


class CompletionsOutput:
    """The answer to one completion request: a choice for each sample of each prompt."""

    def __init__(
        self,
        header: Header,
        names: FieldNames,
        include_usage: bool,
        echo: bool = False,
        prompt_only: bool = False,
    ) -> None:
        """`echo`: each choice's text begins with its prompt; `prompt_only`: and ends with it."""
        self.names = names
        self._header = header
        self._chunk = chunk = Chunk(header, KIND, include_usage)
        self._echo = echo
        self._prompt_only = prompt_only
        self._begun: set[int] = set()
        """Choices of which something was written."""
        self._logprobs: defaultdict[int, CompletionLogprobs] = defaultdict(CompletionLogprobs)
        """By choice."""
        self._after_text = b',"logprobs":null,"finish_reason":null}' + chunk.after

    def opening(self, generations: Sequence[Generation]) -> bytes:
        """Nothing: the first event carries text."""
        return b""

    def delta(self, index: int, generation: Generation) -> bytes:
        """New text of one continuation."""
        if generation.prompt is not None and index not in self._begun:
            self._begun.add(index)
            return self._chunk.event(self._choice(index, generation, None, _prompt_ids(generation)))
        if self._prompt_only:
            return b""
        if generation.logprobs or generation.token_ids:
            return self._chunk.event(self._choice(index, generation, None))
        if not generation.texts:
            return b""
        return self._before_text(index) + orjson.dumps(generation.take_text()) + self._after_text

    def around_text(self, index: int) -> tuple[bytes, bytes] | None:
        """The bytes around a continuation's new text."""
        return None if self._prompt_only else (self._before_text(index), self._after_text)

    def finish(self, index: int, generation: Generation) -> bytes:
        """Why the continuation ended."""
        reason = FINISH_REASONS[generation.finish_reason]
        return self._chunk.event({"index": index, "text": "", "logprobs": None, "finish_reason": reason})

    def closing(self, generations: Sequence[Generation]) -> bytes:
        """The usage, when asked for, and [DONE]."""
        return self._chunk.closing(generations)

    def whole(self, generations: Sequence[Generation]) -> bytes:
        """The answer in one piece."""
        choices = []
        for index, generation in enumerate(generations):
            reason = FINISH_REASONS[generation.finish_reason]
            choices.append(self._choice(index, generation, reason, _about_prompt(generation)))
        fields = self._header.fields(KIND)
        return orjson.dumps({**fields, "choices": choices, "usage": usage(generations)})

    def _before_text(self, index: int) -> bytes:
        return b'%b{"index":%d,"text":' % (self._chunk.before, index)

    def _choice(
        self,
        index: int,
        generation: Generation,
        finish_reason: str | None,
        about_prompt: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """What arrived, the prompt first where it is wanted: `about_prompt` is None once that was written."""
        text, logprobs, token_ids = (
            generation.take_text(),
            generation.take_logprobs(),
            generation.take_token_ids(),
        )
        if self._prompt_only:
            text, logprobs, token_ids = "", [], []
        prompt = generation.prompt if self._echo and about_prompt is not None else None
        if prompt is not None:
            text = prompt.prompt_text + text
        choice = {
            "index": index,
            "text": text,
            "logprobs": self._logprobs[index].columns(logprobs, prompt),
            "finish_reason": finish_reason,
            **(about_prompt or {}),
        }
        if token_ids:
            choice["token_ids"] = token_ids
        return choice


def _prompt_ids(generation: Generation) -> dict[str, Any]:
    prompt = generation.prompt
    return {} if prompt is None else {"prompt_token_ids": list(prompt.prompt_token_ids)}


def _about_prompt(generation: Generation) -> dict[str, Any]:
    """What was asked about the prompt, as vLLM writes it in each choice."""
    prompt = generation.prompt
    about = _prompt_ids(generation)
    if prompt is not None and prompt.HasField("prompt_logprobs"):
        about["prompt_logprobs"] = prompt_logprobs(prompt)
    return about
