"""How a plain completion is written: as chunks, or whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import orjson

from tokenwire_services.gateway.field_names import Endpoint
from tokenwire_services.gateway.generation import Generation
from tokenwire_services.gateway.logprobs import CompletionLogprobs
from tokenwire_services.gateway.output import FINISH_REASONS, Chunk, Header, usage

KIND = "text_completion"


class CompletionsOutput:
    """The answer to one completion request: a choice for each prompt."""

    endpoint: Endpoint = "completions"

    def __init__(self, header: Header, include_usage: bool) -> None:
        self._header = header
        self._chunk = chunk = Chunk(header, KIND, include_usage)
        self._logprobs: defaultdict[int, CompletionLogprobs] = defaultdict(CompletionLogprobs)
        """By choice."""
        self._after_text = b',"logprobs":null,"finish_reason":null}' + chunk.after

    def opening(self) -> bytes:
        """Nothing: the first event carries text."""
        return b""

    def delta(self, index: int, generation: Generation) -> bytes:
        """New text of one prompt's continuation."""
        if generation.logprobs:
            logprobs = self._logprobs[index].columns(generation.take_logprobs())
            text = generation.take_text() if generation.texts else ""
            return self._chunk.event(
                {"index": index, "text": text, "logprobs": logprobs, "finish_reason": None}
            )
        if not generation.texts:
            return b""
        before = b'%b{"index":%d,"text":' % (self._chunk.before, index)
        return before + orjson.dumps(generation.take_text()) + self._after_text

    def finish(self, index: int, generation: Generation) -> bytes:
        """Why the continuation ended."""
        reason = FINISH_REASONS[generation.finish_reason]
        return self._chunk.event({"index": index, "text": "", "logprobs": None, "finish_reason": reason})

    def closing(self, generations: Sequence[Generation]) -> bytes:
        """The usage, when asked for, and [DONE]."""
        return self._chunk.closing(generations)

    def whole(self, generations: Sequence[Generation]) -> bytes:
        """The answer in one piece."""
        choices = [
            {
                "index": index,
                "text": generation.take_text(),
                "logprobs": self._logprobs[index].columns(generation.take_logprobs()),
                "finish_reason": FINISH_REASONS[generation.finish_reason],
            }
            for index, generation in enumerate(generations)
        ]
        fields = self._header.fields(KIND)
        return orjson.dumps({**fields, "choices": choices, "usage": usage(generations)})
