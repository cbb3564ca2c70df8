"""What has arrived for one prompt and was not yet sent on.

The tokenizer session fills a generation, the response empties it; both run on one event loop, so neither
waits for the other. A reader that is slow finds more text when it comes back, never more wake-ups.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tokenwire.status import StatusError
from tokenwire.v1 import generation_pb2, tokenizer_pb2


class Wakeup:
    """One sleeper that may be woken from many places; waking it before it sleeps is not lost."""

    __slots__ = ("_future", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._future: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake the sleeper, or spare it its next sleep."""
        self._is_set = True
        future = self._future
        if future is not None:
            self._future = None
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        """Sleep until `set` is called, or not at all when it was called since the last wait."""
        if not self._is_set:
            self._future = asyncio.get_running_loop().create_future()
            await self._future
        self._is_set = False


@dataclass(slots=True)
class Generation:
    """One prompt's output. Once `done`, nothing more arrives, and either `error` or `finish_reason` says why.

    Attributes:
        wakeup: of the response that this belongs to.
        wake_on_delta: whether each delta wakes the response, rather than the end only.
        arrived_at: when the request came, then when its latest tokens did, in seconds of the session's clock.
        num_tokens: tokens that arrived so far, as far as the tokenizer counted them.
        texts, reasoning, tool_calls: what arrived and was not taken yet.
        logprobs: messages with the log-probabilities of tokens, not taken yet.
    """

    wakeup: Wakeup
    wake_on_delta: bool
    arrived_at: float
    slot: int
    num_tokens: int = 0
    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    tool_calls: list[tokenizer_pb2.ToolCallDelta] = field(default_factory=list)
    logprobs: list[tokenizer_pb2.TokenizerGenerateResponse] = field(default_factory=list)
    finish_reason: generation_pb2.FinishReason.ValueType = generation_pb2.FINISH_REASON_UNSPECIFIED
    usage: generation_pb2.Usage = field(default_factory=generation_pb2.Usage)
    error: StatusError | None = None
    done: bool = False
    deadline: asyncio.TimerHandle | None = None

    def take_text(self) -> str:
        """All text since the last call, in one piece."""
        texts = self.texts
        text = texts[0] if len(texts) == 1 else "".join(texts)
        texts.clear()
        return text

    def take_logprobs(self) -> list[tokenizer_pb2.TokenizerGenerateResponse]:
        """All messages with log-probabilities since the last call."""
        logprobs, self.logprobs = self.logprobs, []
        return logprobs

    def finish(
        self,
        reason: generation_pb2.FinishReason.ValueType,
        usage: generation_pb2.Usage,
        error: StatusError | None = None,
    ) -> None:
        """The end, by itself or by an error."""
        self.finish_reason = reason
        self.usage = usage
        self._end(error)

    def fail(self, error: StatusError) -> None:
        """The end, by an error on this side of the tokenizer."""
        self._end(error)

    def _end(self, error: StatusError | None) -> None:
        self.error = error
        self.done = True
        if self.deadline is not None:
            self.deadline.cancel()
        self.wakeup.set()
