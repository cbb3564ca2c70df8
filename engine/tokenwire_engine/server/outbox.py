"""A session's output on its way to the peer: gathered, sent as messages, kept until it is acknowledged.

What is produced gathers in columns until it is taken as the next message, so that a peer that reads slowly
gets several steps in one. A message that was taken is kept until the peer acknowledges its step: a new stream
rewinds to the last one that the peer received, and every token is in exactly one message, always the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from tokenwire.v1 import engine_pb2, generation_pb2
from tokenwire_engine.sampling.logprobs import Logprobs
from tokenwire_engine.scheduler.outputs import ChannelOutput
from tokenwire_engine.server.logprobs import MAX_MESSAGE_LOGPROBS, PendingLogprobs

MAX_MESSAGE_TOKENS = 1 << 16
"""Most tokens in one message, so that a peer's limit on message sizes (4 MiB by default) is never met."""
MAX_MESSAGE_EVENTS = 1 << 12
"""Most finish events in one message, for the same reason."""
MESSAGE_SIZE = 32
"""What a message costs besides its content, in tokens; a finish event costs as much."""

FinishEvent = engine_pb2.SessionResponse.FinishEvent


class Outbox:
    """The messages of one session.

    Attributes:
        size: of what is held, in tokens; a log-probability counts as one.
        step: of the message made last; 0 before the first.
    """

    def __init__(self, keep: bool) -> None:
        """`keep`: whether messages stay until they are acknowledged, or are forgotten when they are taken."""
        self.size = 0
        self.step = 0
        self._keep = keep
        self._acknowledged = 0
        self._slots: list[int] = []
        self._token_ids: list[int] = []
        self._sample_indices: list[int] = []
        """Of each token; empty while all are of sample 0."""
        self._logprobs = PendingLogprobs()
        self._finished: deque[FinishEvent] = deque()
        self._kept: deque[engine_pb2.SessionResponse] = deque()
        self._num_taken = 0
        """Of the kept messages, those that the present stream has."""

    @property
    def is_empty(self) -> bool:
        """Whether the present stream has everything."""
        is_sent = self._num_taken == len(self._kept)
        return is_sent and not (self._slots or self._logprobs or self._finished)

    def add(self, output: ChannelOutput) -> None:
        """What a step yielded, but for the ends; the outbox may keep the lists."""
        if output.sample_indices or self._sample_indices:
            self._sample_indices += [0] * (len(self._slots) - len(self._sample_indices))
            self._sample_indices += output.sample_indices or [0] * len(output.labels)
        if self._slots:
            self._slots += output.labels
            self._token_ids += output.token_ids
        else:
            self._slots, self._token_ids = output.labels, output.token_ids
        self.size += len(output.labels)
        if output.logprobs or output.prompt_logprobs:
            self._logprobs.receive(output)
            self.size += sum(map(_num_values, output.logprobs.values()))
            self.size += sum(_num_values(prompt) for _, prompt in output.prompt_logprobs)

    def add_end(self, event: FinishEvent) -> None:
        """The end of a request; it goes out after all tokens so far."""
        self._finished.append(event)
        self.size += MESSAGE_SIZE

    def take(self, commands_received: int) -> engine_pb2.SessionResponse:
        """The next message of the present stream, a kept one or else a new one; there must be one."""
        if self._num_taken < len(self._kept):
            self._num_taken += 1
            return self._kept[self._num_taken - 1]
        message = self._make()
        message.commands_received = commands_received
        if self._keep:
            self._kept.append(message)
            self._num_taken += 1
            self.size += MESSAGE_SIZE
        else:
            self.size -= _content(message)
        return message

    def acknowledge(self, step: int) -> None:
        """Forget the messages up to a step.

        Raises:
            ValueError: when no message that was taken has that step.
        """
        if step > self.step:
            raise ValueError(f"is {step}; the latest step sent is {self.step}")
        self._acknowledged = max(self._acknowledged, step)
        while self._kept and self._kept[0].step <= step:
            self.size -= MESSAGE_SIZE + _content(self._kept.popleft())
            self._num_taken -= 1
        # A step may be acknowledged that this stream has not been sent again yet.
        self._num_taken = max(self._num_taken, 0)

    def rewind(self, step: int) -> None:
        """Begin a new stream behind a step, which is acknowledged with that.

        Raises:
            ValueError: when the peer cannot have received the step, or has acknowledged a later one.
        """
        if step < self._acknowledged:
            raise ValueError(f"is {step}; step {self._acknowledged} was acknowledged")
        self.acknowledge(step)
        self._num_taken = 0

    def _make(self) -> engine_pb2.SessionResponse:
        """All there is, up to a message's limits."""
        self.step += 1
        message = engine_pb2.SessionResponse(step=self.step)
        room = MAX_MESSAGE_LOGPROBS
        while room and (piece := self._logprobs.take_prompt(room)) is not None:
            message.logprobs.append(piece)
            room -= len(piece.prompt.token_logprobs)
        if self._logprobs.has_prompts:
            return message
        most = MAX_MESSAGE_LOGPROBS if self._logprobs else MAX_MESSAGE_TOKENS
        message.slots.extend(_cut(self._slots, most))
        message.token_ids.extend(_cut(self._token_ids, most))
        message.sample_indices.extend(_cut(self._sample_indices, most))
        if self._logprobs:
            samples = message.sample_indices or [0] * len(message.slots)
            message.logprobs.extend(self._logprobs.take(zip(message.slots, samples, strict=True)))
        if not (self._slots or self._logprobs):
            for _ in range(min(len(self._finished), MAX_MESSAGE_EVENTS)):
                message.finished.append(self._finished.popleft())
        return message


def _cut(values: list[int], count: int) -> Sequence[int]:
    """Take the first values out of a list."""
    first = values[:count]
    del values[:count]
    return first


def _content(message: engine_pb2.SessionResponse) -> int:
    logprobs = sum(_num_values(part.tokens) + _num_values(part.prompt) for part in message.logprobs)
    return len(message.slots) + logprobs + MESSAGE_SIZE * len(message.finished)


def _num_values(logprobs: Logprobs | generation_pb2.LogprobColumns) -> int:
    return len(logprobs.token_logprobs) + len(logprobs.top_logprobs)
