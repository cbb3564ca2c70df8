"""What has arrived for one prompt's samples and was not yet sent on.

The tokenizer session fills a generation, the response empties it; both run on one event loop, so neither
waits for the other. A reader that is slow finds more text when it comes back, never more wake-ups.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Container
from dataclasses import dataclass, field

from tokenwire.status import StatusError
from tokenwire.v1 import generation_pb2, tokenizer_pb2
from tokenwire.wakeup import Wakeup
from tokenwire_services.gateway.text_writer import TextWriter

FinishEvent = tokenizer_pb2.TokenizerSessionResponse.FinishEvent


@dataclass(slots=True)
class Generation:
    """One continuation. Once `done`, nothing more arrives, and either `error` or `finish_reason` says why.

    Attributes:
        wakeup: of the response that this belongs to.
        wake_on_delta: whether each delta wakes the response, rather than the end only.
        stream: its number among all that the session has.
        writers: those of the streams whose text is written as it arrives, instead of waking the response. Its
            own is there only while the response has taken all there is: so text never overtakes what came
            before it.
        received_token_ids: the tokens behind all that arrived so far, but for what the session has still to
            settle.
        num_detailed: how many of them arrived in details: all, where the answer says or counts its tokens.
        texts, reasoning, tool_calls, token_ids: what arrived and was not taken yet.
        logprobs: messages with the log-probabilities of tokens, not taken yet.
        prompt: what was asked about the prompt; it arrives before anything else.
        stop_reason: the stop string that ended it, or the stop token that the request named.
        usage: the request's, in the generation that ended last.
    """

    wakeup: Wakeup
    wake_on_delta: bool
    stream: int
    writers: dict[int, TextWriter]
    received_token_ids: list[int] = field(default_factory=list)
    num_detailed: int = 0
    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    tool_calls: list[tokenizer_pb2.ToolCallDelta] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[tokenizer_pb2.TokenizerGenerateResponse] = field(default_factory=list)
    prompt: tokenizer_pb2.TokenizerGenerateResponse | None = None
    finish_reason: generation_pb2.FinishReason.ValueType = generation_pb2.FINISH_REASON_UNSPECIFIED
    stop_reason: str | int | None = None
    usage: generation_pb2.Usage = field(default_factory=generation_pb2.Usage)
    error: StatusError | None = None
    done: bool = False

    def wake(self) -> None:
        """Have the response take what has arrived; until it has, all that follows waits."""
        self.hold()
        self.wakeup.set()

    def write_with(self, writer: TextWriter | None) -> None:
        """Have text written as it arrives, if there is what writes it, and it can."""
        if writer is not None and writer.is_free:
            self.writers[self.stream] = writer

    def hold(self) -> None:
        """Have text wait for the response."""
        self.writers.pop(self.stream, None)

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

    def take_token_ids(self) -> list[int]:
        """All token IDs since the last call."""
        token_ids, self.token_ids = self.token_ids, []
        return token_ids

    def finish(self, event: FinishEvent, named_stop_token_ids: Container[int] = ()) -> None:
        """The end, by itself. (An end-of-sequence token is no stop reason, unless the request named it.)"""
        self.finish_reason = event.reason
        if event.HasField("stop_string"):
            self.stop_reason = event.stop_string
        elif event.HasField("stop_token_id") and event.stop_token_id in named_stop_token_ids:
            self.stop_reason = event.stop_token_id
        if event.HasField("usage"):
            self.usage = event.usage
        self.done = True
        self.wake()

    def fail(self, error: StatusError) -> None:
        """The end, by an error; an error after the end counts too, as it is the whole request's."""
        self.error = error
        self.done = True
        self.wake()


@dataclass(slots=True)
class Submission:
    """One prompt's request in a slot of the session, and its generations: one for each sample."""

    slot: int
    request: tokenizer_pb2.TokenizerGenerateRequest
    """As it is to be sent, should it have to be sent now."""
    generations: tuple[Generation, ...]
    deadline: asyncio.TimerHandle | None = None
    """What ends it when it takes too long."""
    done: bool = False
    """Whether nothing more arrives for any generation."""
    num_moves: int = 0
    """Processes of the tokenizer service that it has lost."""

    def resume(self) -> None:
        """Have the request, sent again, yield what has not arrived."""
        request = self.request
        resumption = tokenizer_pb2.Resumption(request_id=request.request_id)
        for generation in self.generations:
            resumption.samples.add(ids=generation.received_token_ids)
        request.resumption.CopyFrom(resumption)
        request.request_id = str(uuid.uuid4())
        self.num_moves += 1

    def fail(self, error: StatusError) -> None:
        """End all generations with an error."""
        self.end()
        for generation in self.generations:
            generation.fail(error)

    def end(self) -> None:
        """Nothing more arrives."""
        self.done = True
        if self.deadline is not None:
            self.deadline.cancel()
