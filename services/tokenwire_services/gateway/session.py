"""The slots of one tokenizer session: commands out, columns of deltas in.

Pure bookkeeping, without I/O, and all that it takes to lose nothing when a connection breaks, or the process
at its other end dies: then every request is sent to the next one, with the tokens that it has so far. A slot
is taken from submission until the tokenizer's finish event for it (the last one, where a request has several
samples), also when the request was cancelled in between, so that a late delta never reaches another request.
What arrived goes on at once, but the tokens behind it are kept as they came, and given to their generations
from time to time, many to each: they are for a failover. Until then no slot is taken again. Metrics wait for
that, too: from one message to the next a processor's caches forget most of what it takes to handle one, so
that what can wait costs less when it is done for many together.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections import defaultdict
from typing import NamedTuple

import grpc

from tokenwire.duplex.commands import Commands
from tokenwire.status import StatusError, unavailable
from tokenwire.v1 import generation_pb2, tokenizer_pb2
from tokenwire.wakeup import Wakeup
from tokenwire_services.gateway.generation import Generation, Submission
from tokenwire_services.gateway.latencies import Latencies
from tokenwire_services.gateway.metrics import Metrics
from tokenwire_services.gateway.text_writer import TextWriter, write_texts

_ACK_STEPS, _ACK_TOKENS, _ACK_S = 64, 8192, 1.0
"""What is received between acknowledgements: the tokenizer service keeps that much, unsettled it is here."""
_GRACE_MS = 10_000
"""How long the tokenizer service shall keep the session without a stream."""
_MOST_REQUEST_BYTES = 24 << 20
"""Less than the tokenizer service takes in one message: a larger one would break the session for all."""

MAX_MOVES = 3
"""A request that has lost more processes than this may be what kills them."""

_SLOT_BITS = 32
_SLOT = (1 << _SLOT_BITS) - 1

Command = tokenizer_pb2.TokenizerSessionRequest


class Arrival(NamedTuple):
    """What came at one time: of each stream so many tokens, one stream's after the other's."""

    at_s: float
    streams: list[int]
    counts: list[int]
    token_ids: list[int]


class Session:
    """All of this gateway's requests, over one stream at a time.

    It can be resumed over another stream: commands are kept until the tokenizer service has counted them.
    """

    def __init__(self, metrics: Metrics, request_timeout_s: float | None = None) -> None:
        self._metrics = metrics
        self._latencies = Latencies(metrics)
        self._request_timeout_s = request_timeout_s
        self._live: dict[int, Submission] = {}
        self._writers: dict[int, TextWriter] = {}
        """Of the streams whose text goes straight to their clients."""
        self._unsettled: list[Arrival] = []
        self._ended_streams: list[int] = []
        """Of which what has arrived is still to be settled."""
        self._free_slots: list[int] = []
        self._freed_slots: list[int] = []
        """Free once all is settled."""
        self._num_slots = 0
        self._outgoing_added = Wakeup()
        self._closed = False
        self._renew()

    def _renew(self) -> None:
        """A session that no process knows, with the live requests still to be sent."""
        self._id = str(uuid.uuid4())
        self._was_opened = False
        self._grace_ms = 0
        self._step = 0
        """Received last."""
        self._acked_step = 0
        self._acked_at = time.monotonic()
        self._unacked_tokens = 0
        self._ack_due = False
        self._commands = Commands[Command]()
        self._free_slots = [slot for slot in range(self._num_slots) if slot not in self._live]
        for submission in self._live.values():
            self._submit(submission)

    @property
    def was_opened(self) -> bool:
        """Whether a process of the tokenizer service has it."""
        return self._was_opened

    def move(self) -> None:
        """Go on in a new session, at a process that knows none of the requests."""
        self._settle()
        for submission in list(self._live.values()):
            if submission.num_moves == MAX_MOVES:
                message = f"the request has lost {MAX_MOVES + 1} tokenizer services and is not tried again"
                self.cancel(submission, unavailable(message, 0.0))
            else:
                submission.resume()
        self._renew()

    @property
    def grace_s(self) -> float:
        """How long the tokenizer service keeps the session without a stream, in seconds."""
        return self._grace_ms / 1000

    def opening(self) -> Command:
        """The first command of a stream: opens the session, or resumes it."""
        opening = Command.Open(session_id=self._id, grace_period_ms=_GRACE_MS)
        if self._was_opened:
            opening.resume_after_step = self._step
        return Command(open=opening)

    def opened(self, opened: tokenizer_pb2.TokenizerSessionResponse.Opened) -> None:
        """The answer: from here on, `next_command` has what the tokenizer service does not know yet.

        Raises:
            ValueError: the service breaks the protocol.
        """
        self._was_opened = True
        self._grace_ms = opened.grace_period_ms
        self._commands.begin_stream(opened.commands_received)
        self._outgoing_added.set()

    @property
    def num_live(self) -> int:
        """Requests that have not ended."""
        return len(self._live)

    def submit(
        self, request: tokenizer_pb2.TokenizerGenerateRequest, wakeup: Wakeup, wake_on_delta: bool
    ) -> Submission:
        """Start a request; its deltas arrive in the submission's generations.

        Raises:
            StatusError: OUT_OF_RANGE for a request that is too large to send.
        """
        if (size := request.ByteSize()) > _MOST_REQUEST_BYTES:
            message = f"the request takes {size} bytes; expected at most {_MOST_REQUEST_BYTES}"
            raise StatusError(grpc.StatusCode.OUT_OF_RANGE, message)
        slot = self._free_slot()
        if not request.sampling.HasField("seed"):
            # Drawn here, so that another process that continues the request continues its random numbers.
            request.sampling.seed = int.from_bytes(os.urandom(8)) >> 1
        now, num_samples = time.monotonic(), max(1, request.sampling.num_samples)
        generations = tuple(
            Generation(wakeup, wake_on_delta, _stream(slot, index), self._writers)
            for index in range(num_samples)
        )
        submission = self._live[slot] = Submission(slot, request, generations)
        for index in range(num_samples):
            self._latencies.begin(_stream(slot, index), now)
        if self._request_timeout_s is not None:
            loop = asyncio.get_running_loop()
            submission.deadline = loop.call_later(self._request_timeout_s, self._expire, submission)
        self._submit(submission)
        return submission

    def cancel(self, submission: Submission, error: StatusError | None = None) -> None:
        """End a request early; nothing more arrives for it. Does nothing when it has ended."""
        if submission.done:
            return
        self._settle()
        submission.fail(error or StatusError(grpc.StatusCode.CANCELLED, "the request was cancelled"))
        for generation in submission.generations:
            self._latencies.end(generation.stream)
        self._live.pop(submission.slot, None)
        self._send(Command(cancel=Command.Cancel(slot=submission.slot)))

    def fail(self, error: StatusError) -> None:
        """End every request with an error."""
        for submission in list(self._live.values()):
            self.cancel(submission, error)

    def close(self, error: StatusError) -> None:
        """End every request with an error, and the stream of commands once all were taken."""
        self.fail(error)
        self._closed = True
        self._outgoing_added.set()

    async def next_command(self) -> Command | None:
        """The next command to send over this stream; None once the session was closed and all were taken."""
        while True:
            if (command := self._commands.take()) is not None:
                if not self._grace_ms:
                    self._commands.forget_taken()
                return command
            if self._ack_due:
                self._ack_due = False
                return Command(ack=Command.Ack(step=self._step))
            if self._closed:
                return None
            await self._outgoing_added.wait()

    def deliver(self, message: tokenizer_pb2.TokenizerSessionResponse) -> None:
        """Hand a message's deltas and finish events to the requests that they belong to."""
        now = time.monotonic()
        self._step = step = message.step
        if self._grace_ms:
            self._commands.count(message.commands_received)
        details = message.details
        for detail in details:  # a slot's text waits for them, as they say what comes before it
            for generation in self._generations(detail.slot):
                generation.hold()
        slots = message.slots[:]
        if slots:
            self._deliver_columns(slots, message, now)
        for detail in details:
            self._deliver_detail(detail, now)
        for event in message.finished:
            self._finish(event)
        is_much = step - self._acked_step >= _ACK_STEPS or self._unacked_tokens >= _ACK_TOKENS
        if is_much or now - self._acked_at >= _ACK_S:
            self._acked_step, self._unacked_tokens, self._acked_at = step, 0, now
            self._ack_due = True
            self._outgoing_added.set()
            self._settle()
        elif not self._live:
            self._settle()

    def _arrived(self, now: float, streams: list[int], counts: list[int], token_ids: list[int]) -> None:
        """Tokens have arrived, which are to be settled."""
        self._unsettled.append(Arrival(now, streams, counts, token_ids))
        self._unacked_tokens += len(token_ids)

    def _settle(self) -> None:
        """Count what arrived since the last time, give it to the generations, and free what slots can be."""
        received: defaultdict[int, list[int]] = defaultdict(list)
        for now, streams, counts, token_ids in self._unsettled:
            self._latencies.arrived(streams, now)
            self._metrics.generation_tokens.inc(len(token_ids))
            if len(token_ids) == len(counts) == counts.count(1):  # a token each, as nearly always
                for stream, token_id in zip(streams, token_ids, strict=True):
                    received[stream].append(token_id)
                continue
            end = 0
            for stream, count in zip(streams, counts, strict=True):
                begin, end = end, end + count
                received[stream] += token_ids[begin:end]
        for stream, token_ids in received.items():
            if generations := self._generations(stream & _SLOT):
                generations[stream >> _SLOT_BITS].received_token_ids += token_ids
        self._unsettled.clear()
        for stream in self._ended_streams:
            self._latencies.end(stream)
        self._ended_streams.clear()
        self._free_slots += self._freed_slots
        self._freed_slots.clear()

    def _free_slot(self) -> int:
        if self._free_slots:
            return self._free_slots.pop()
        self._num_slots += 1
        return self._num_slots - 1

    def _deliver_columns(
        self, slots: list[int], message: tokenizer_pb2.TokenizerSessionResponse, now: float
    ) -> None:
        """The text of requests for one sample, and the tokens behind it: what most messages are."""
        # Lists: what protobuf slices and iterates costs more.
        texts, counts = message.text_deltas[:], message.token_counts[:]
        if not len(slots) == len(texts) == len(counts):
            raise ValueError(f"{len(slots)} slots have {len(texts)} texts and {len(counts)} counts of tokens")
        self._arrived(now, slots, counts, message.token_ids[:])
        writers = [writer for writer in map(self._writers.get, slots) if writer is not None]
        if len(writers) == len(slots) and all(texts):
            write_texts(writers, texts)
        else:
            self._deliver_some(slots, texts)

    def _deliver_some(self, slots: list[int], texts: list[str]) -> None:
        """The same where some texts are empty, or left to their responses."""
        written = []
        for slot, text in zip(slots, texts, strict=True):
            if not text:
                continue
            if slot in self._writers:
                written.append((self._writers[slot], text))
            elif (submission := self._live.get(slot)) is not None:
                generation = submission.generations[0]
                generation.texts.append(text)
                if generation.wake_on_delta:
                    generation.wake()
        write_texts([writer for writer, _ in written], [text for _, text in written])

    def _deliver_detail(self, detail: tokenizer_pb2.TokenizerSessionResponse.Detail, now: float) -> None:
        generations = self._generations(detail.slot)
        if not generations:
            self._arrived(now, [], [], detail.token_ids[:])
            return
        response = detail.response
        if response.prompt_token_ids or response.prompt_text:
            for generation in generations:
                generation.prompt = response
        generation = generations[response.sample_index]
        if detail.token_ids:
            token_ids = detail.token_ids[:]
            self._arrived(now, [generation.stream], [len(token_ids)], token_ids)
            generation.num_detailed += len(token_ids)
        if response.reasoning_delta:
            generation.reasoning.append(response.reasoning_delta)
        if response.text_delta:
            generation.texts.append(response.text_delta)
        generation.tool_calls.extend(response.tool_calls)
        generation.token_ids.extend(response.token_ids)
        if response.token_bytes:
            generation.logprobs.append(response)
        if generation.wake_on_delta:
            generation.wake()

    def _generations(self, slot: int) -> tuple[Generation, ...]:
        """Those of the request in a slot; none where it has ended."""
        submission = self._live.get(slot)
        return () if submission is None else submission.generations

    def _finish(self, event: tokenizer_pb2.TokenizerSessionResponse.FinishEvent) -> None:
        submission = self._live.get(event.slot)
        is_last = event.HasField("usage")
        if is_last:
            self._freed_slots.append(event.slot)
            self._ended_streams += [generation.stream for generation in self._generations(event.slot)]
            self._live.pop(event.slot, None)
        if submission is None:
            return
        if is_last:
            submission.end()
            self._metrics.prompt_tokens.inc(event.usage.prompt_tokens)
        if event.reason == generation_pb2.FINISH_REASON_ERROR:
            submission.fail(StatusError.from_proto(event.error))
        elif event.reason == generation_pb2.FINISH_REASON_CANCELLED:
            message = "the tokenizer service cancelled the request"
            submission.fail(StatusError(grpc.StatusCode.CANCELLED, message))
        else:
            named = submission.request.stop.stop_token_ids
            submission.generations[event.sample_index].finish(event, named)

    def _expire(self, submission: Submission) -> None:
        message = f"the request did not finish within {self._request_timeout_s:g} seconds"
        self.cancel(submission, StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, message))

    def _submit(self, submission: Submission) -> None:
        self._send(Command(submit=Command.Submit(slot=submission.slot, request=submission.request)))

    def _send(self, command: Command) -> None:
        self._commands.add(command)
        self._outgoing_added.set()


def _stream(slot: int, sample_index: int) -> int:
    """A sample's number among all streams; the first one's is the slot's, whose text comes in columns."""
    return slot + (sample_index << _SLOT_BITS)
