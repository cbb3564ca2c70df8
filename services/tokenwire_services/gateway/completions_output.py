"""How a plain completion is written: as chunks, or whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import orjson

from tokenwire_services.gateway.field_names import FieldNames
from tokenwire_services.gateway.generation import Generation
from tokenwire_services.gateway.logprobs import CompletionLogprobs, prompt_logprobs
from tokenwire_services.gateway.output import Chunk, Header, ending, usage
from tokenwire_services.gateway.schemas.completions import CompletionRequest

KIND = "text_completion"


class CompletionsOutput:
    """The answer to one completion request: a choice for each sample of each prompt."""

    def __init__(self, header: Header, names: FieldNames, body: CompletionRequest) -> None:
        self.names = names
        self._header = header
        self._chunk = chunk = Chunk(header, KIND, body.stream_options)
        self._echo = bool(body.echo)
        """Whether each choice's text begins with its prompt."""
        self._prompt_only = body.max_tokens == 0
        """Whether it ends with it, too."""
        self._return_token_ids = bool(body.return_token_ids)
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
            about_prompt = self._prompt_ids(generation)
            choice = self._choice(index, generation, None, about_prompt)
            has_content = bool(choice["text"] or choice["logprobs"] or about_prompt)
            return self._chunk.event(choice, generation) if has_content else b""
        if self._prompt_only:
            return b""
        if generation.logprobs or generation.token_ids or (generation.texts and self._chunk.counts_tokens):
            return self._chunk.event(self._choice(index, generation, None), generation)
        if not generation.texts:
            return b""
        return self._before_text(index) + orjson.dumps(generation.take_text()) + self._after_text

    def around_text(self, index: int) -> tuple[bytes, bytes] | None:
        """The bytes around a continuation's new text."""
        if self._prompt_only or self._chunk.counts_tokens:
            return None
        return self._before_text(index), self._after_text

    def finish(self, index: int, generation: Generation) -> bytes:
        """Why the continuation ended."""
        choice = {"index": index, "text": "", "logprobs": None, **ending(generation)}
        return self._chunk.event(choice, generation)

    def closing(self, generations: Sequence[Generation]) -> bytes:
        """The usage, when asked for, and [DONE]."""
        return self._chunk.closing(lambda: self._usage(generations))

    def whole(self, generations: Sequence[Generation]) -> bytes:
        """The answer in one piece."""
        choices = [
            self._choice(index, generation, ending(generation), self._about_prompt(generation))
            for index, generation in enumerate(generations)
        ]
        fields = {**self._header.fields(KIND), "system_fingerprint": None}
        return orjson.dumps({**fields, "choices": choices, "usage": self._usage(generations)})

    def _usage(self, generations: Sequence[Generation]) -> dict[str, Any]:
        counted = usage(generations)
        if self._prompt_only:  # the token that the engine generates anyway is dropped
            counted |= {"completion_tokens": 0, "total_tokens": counted["prompt_tokens"]}
        return counted

    def _before_text(self, index: int) -> bytes:
        return b'%b{"index":%d,"text":' % (self._chunk.before, index)

    def _choice(
        self,
        index: int,
        generation: Generation,
        end: dict[str, Any] | None,
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
            "finish_reason": None,
            **(end or {}),
            **(about_prompt or {}),
        }
        if token_ids and self._return_token_ids:
            choice["token_ids"] = token_ids
        return choice

    def _prompt_ids(self, generation: Generation) -> dict[str, Any]:
        prompt = generation.prompt
        if prompt is None or not self._return_token_ids:
            return {}
        return {"prompt_token_ids": list(prompt.prompt_token_ids)}

    def _about_prompt(self, generation: Generation) -> dict[str, Any]:
        """What was asked about the prompt, as vLLM writes it in each choice."""
        prompt, about = generation.prompt, self._prompt_ids(generation)
        if prompt is not None and prompt.HasField("prompt_logprobs"):
            about["prompt_logprobs"] = prompt_logprobs(prompt)
        return about
