"""This process's requests at the engine, by slot: commands out, columns of tokens in.

Bookkeeping without I/O, and all that is needed to lose nothing. When the connection breaks, the session
resumes behind the last step it received, and sends again the commands that the engine had not counted. When
the engine is gone, or has forgotten the session, every request moves: it is submitted anew with the tokens it
has so far, and the next ones are what they would have been. So is a request that a draining engine hands
back, once there is an engine that admits it. Or the requests are taken from here, and another engine's
session adopts them.

A slot is reused only after the engine's finish event for it, so tokens of a cancelled request never reach the
next one. Nor is it before the tokens received have been settled: for a failover each request has its own, but
they are kept as they came, and given to their requests from time to time, many to each.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from tokenwire.duplex.commands import Commands
from tokenwire.status import StatusError, unavailable
from tokenwire.v1 import engine_pb2
from tokenwire.wakeup import Wakeup
from tokenwire_services.tokenizer import plain_text
from tokenwire_services.tokenizer.engine_request import EngineRequest, read_handed_back
from tokenwire_services.tokenizer.plain_text import PlainText
from tokenwire_services.tokenizer.samples import Samples

log = logging.getLogger(__name__)

Command = engine_pb2.SessionRequest

MAX_MOVES = 3
"""A request that has lost more engines than this may be what kills them."""

_ACK_MESSAGES, _ACK_TOKENS = 16, 8192
"""What is received between acknowledgements: the engine keeps that much, and so much is unsettled here."""


class EngineSession:
    """All of this process's requests, over one stream at a time.

    Attributes:
        counts: what it has seen, for whoever measures.
    """

    def __init__(self, grace_ms: int) -> None:
        """`grace_ms`: how long the engine shall keep the session without a connection."""
        self._grace_ms = grace_ms
        self.counts = Counts()
        self._live: dict[int, EngineRequest] = {}
        self._plain: dict[int, PlainText] = {}  # of live requests, while tokens may be given to it
        self._unsettled: list[tuple[list[int], list[int]]] = []  # slots and tokens of each message
        self._ending: set[int] = set()  # cancelled; the engine's finish event is on its way
        self._handed_back: set[int] = set()  # live, but no engine has them
        self._free_slots: list[int] = []
        self._freed_slots: list[int] = []  # free once all is settled
        self._num_slots = 0
        self._has_news = Wakeup()  # for whoever sends commands
        self._has_ended = asyncio.Event()
        self._renew()

    def _renew(self) -> None:
        """A session that no engine knows, with the live requests still to be submitted."""
        self.settle()
        self._id = str(uuid.uuid4())
        self._was_opened = False
        self._step = 0
        """Received last."""
        self._commands = Commands[Command]()
        self._unacked_messages = 0
        self._unacked_tokens = 0
        self._ack_due = False
        self._free_slots += self._ending
        self._ending.clear()
        self._handed_back.clear()
        for slot, request in self._live.items():
            self._send(Command(submit=Command.Submit(slot=slot, request=request.resumed())))

    def submit(
        self, request: engine_pb2.GenerateRequest, samples: Samples, output: Sequence[int] = ()
    ) -> EngineRequest:
        """Start a request whose output goes to `samples`.

        The samples may have begun elsewhere: `output` is what a single one has.
        """
        slot = self._free_slot()
        started = self._live[slot] = EngineRequest(request, samples, list(output), self, slot)
        self.counts.num_live = len(self._live)
        self.counts.num_requests += 1
        self.counts.num_prompt_tokens += len(request.prompt_token_ids)
        if any(generation.num_tokens for generation in samples.generations):
            request = started.resumed()
        self._send(Command(submit=Command.Submit(slot=slot, request=request)))
        return started

    def adopt(self, request: EngineRequest) -> None:
        """Go on with a request that was taken from another session."""
        request.session, request.slot = self, self._free_slot()
        self._live[request.slot] = request
        self.counts.num_live = len(self._live)
        self.counts.num_moved += 1
        self._send(Command(submit=Command.Submit(slot=request.slot, request=request.resumed())))

    def take_all(self) -> list[EngineRequest]:
        """Give away all requests: their engine is lost. If it comes back and has them still, it ends them."""
        for request in list(self._live.values()):
            self._lose(request)
        return self._take(list(self._live))

    def take_handed_back(self) -> list[EngineRequest]:
        """Give away the requests that the engine has handed back."""
        return self._take(list(self._handed_back))

    def _take(self, slots: list[int]) -> list[EngineRequest]:
        self.settle()
        taken = [self._live[slot] for slot in slots]
        for request in taken:
            self.cancel(request)
        return taken

    def _lose(self, request: EngineRequest) -> None:
        """A request has lost its engine, unless that had handed it back; after too many it fails."""
        request.num_moves += request.slot not in self._handed_back
        if request.num_moves > MAX_MOVES:
            message = f"the request has lost {request.num_moves} engines and is not tried again"
            request.samples.fail(unavailable(message))
            self.cancel(request)

    def cancel(self, request: EngineRequest) -> None:
        """Route nothing more to its samples and have the engine end it; harmless when it has ended."""
        slot = request.slot
        if self._live.get(slot) is request:
            self._forget(slot)
            self.counts.num_live = len(self._live)
            if slot in self._handed_back:
                self._handed_back.remove(slot)
                self._free(slot)
            else:
                self._ending.add(slot)
                self._send(Command(cancel=Command.Cancel(slot=slot)))

    def cancel_all(self, error: StatusError) -> None:
        """End every request with an error, here and at the engine."""
        for request in list(self._live.values()):
            request.samples.fail(error)
            self.cancel(request)

    @property
    def has_requests(self) -> bool:
        """Whether there are requests that have not ended."""
        return bool(self._live)

    @property
    def has_handed_back(self) -> bool:
        """Whether there are requests that no engine has."""
        return bool(self._handed_back)

    def fail_handed_back(self, error: StatusError) -> None:
        """End the requests that no engine has with an error."""
        for slot in list(self._handed_back):
            request = self._live[slot]
            request.samples.fail(error)
            self.cancel(request)

    def submit_again(self) -> None:
        """The engine admits requests again: let it have those that it handed back."""
        for slot in self._handed_back:
            self.counts.num_moved += 1
            self._send(Command(submit=Command.Submit(slot=slot, request=self._live[slot].resumed())))
        self._handed_back.clear()

    def abandon(self, error: StatusError) -> None:
        """End every request with an error; the engine's session is not resumed."""
        self.cancel_all(error)
        self._renew()

    def move(self) -> None:
        """Go on in a new session, at an engine that knows none of the requests."""
        for request in list(self._live.values()):
            self._lose(request)
        self.counts.num_moved += len(self._live)
        self._renew()

    async def idle(self) -> None:
        """Return once the engine has ended every request."""
        while self._live or self._ending:
            self._has_ended.clear()
            await self._has_ended.wait()

    def opening(self) -> Command:
        """The first command of a connection: opens the session, or resumes it."""
        opening = Command.Open(session_id=self._id, grace_period_ms=self._grace_ms)
        if self._was_opened:
            opening.resume_after_step = self._step
        self._was_opened = True
        return Command(open=opening)

    def opened(self, opened: engine_pb2.SessionResponse.Opened) -> None:
        """The engine's answer: from here on, `next_command` has what it does not know yet.

        Raises:
            ValueError: the engine breaks the protocol.
        """
        self._commands.begin_stream(opened.commands_received)
        self._has_news.set()

    async def next_command(self) -> Command:
        """The next command to send over this connection, in order."""
        while True:
            if (command := self._commands.take()) is not None:
                return command
            if self._ack_due:
                self._ack_due = False
                return Command(ack=Command.Ack(step=self._step))
            await self._has_news.wait()

    def receive(self, message: engine_pb2.SessionResponse) -> bool:
        """Route one engine step's output. Whether the engine handed a request back.

        Raises:
            Exception: of one kind or another, as there are many ways to break the protocol.
        """
        num_handed_back = len(self._handed_back)
        self._step = message.step
        self._commands.count(message.commands_received)
        live, plain = self._live, self._plain
        for event in message.finished:
            if event.HasField("stop_token_id") and event.slot in live:
                live[event.slot].samples.generations[event.sample_index].expect_stop(event.stop_token_id)
                plain.pop(event.slot, None)
        for part in message.logprobs:
            if part.slot in live:
                live[part.slot].receive_logprobs(part)
        slots, token_ids = message.slots[:], message.token_ids[:]  # lists, which iterate faster
        sample_indices = message.sample_indices[:] or [0] * len(slots)
        self._check(slots, token_ids, sample_indices)
        self._unsettled.append((slots, token_ids))
        if left := plain_text.push(plain, slots, token_ids):
            for slot, token_id, index in zip(slots, token_ids, sample_indices, strict=True):
                if slot in left:
                    self._push(slot, token_id, index)
        for event in message.finished:
            self._finish(event)
        self.counts.num_live = len(live)
        self.counts.num_generated_tokens += len(token_ids)
        self._unacked_messages += 1
        self._unacked_tokens += len(slots)
        if self._unacked_messages >= _ACK_MESSAGES or self._unacked_tokens >= _ACK_TOKENS:
            self._unacked_messages = 0
            self._unacked_tokens = 0
            self._ack_due = True
            self._has_news.set()
            self.settle()
        return len(self._handed_back) > num_handed_back

    def _check(self, slots: Sequence[int], token_ids: Sequence[int], sample_indices: Sequence[int]) -> None:
        """Raise ValueError for tokens that cannot be given to requests, before any of them is."""
        if not len(slots) == len(token_ids) == len(sample_indices):
            raise ValueError(f"{len(token_ids)} tokens for {len(slots)} slots, {len(sample_indices)} samples")
        if any(sample_indices):
            for slot, index in zip(slots, sample_indices, strict=True):
                request = self._live.get(slot)
                if request is not None and index >= len(request.samples.generations):
                    raise ValueError(f"a token for sample {index}, which slot {slot} does not have")

    def _push(self, slot: int, token_id: int, index: int) -> None:
        """Give a token to a sample, and see whether it may give the next ones to something simpler."""
        request = self._live.get(slot)
        if request is None:
            return
        samples = request.samples
        generation = samples.generations[index]
        if request.repeated is not None and (request.repeats(index) or generation.finished):
            return
        try:
            generation.push(token_id)
        except Exception:  # one request's trouble must not end the others
            log.exception("the request in slot %d failed on token %d", slot, token_id)
            samples.fail(StatusError(grpc.StatusCode.INTERNAL, f"token {token_id} cannot be decoded"))
        if (text := generation.plain) is not None:
            self._plain[slot] = text
            return
        self._plain.pop(slot, None)
        if generation.finished and samples.finished:
            self.cancel(request)

    def settle(self) -> None:
        """Give the requests the tokens that were received since the last time, and free what slots can be."""
        received: defaultdict[int, list[int]] = defaultdict(list)
        for slots, token_ids in self._unsettled:
            for slot, token_id in zip(slots, token_ids, strict=True):
                received[slot].append(token_id)
        for slot, output in received.items():
            request = self._live.get(slot)
            if request is not None and request.repeated is None:
                request.output += output
        self._unsettled.clear()
        self._free_slots += self._freed_slots
        self._freed_slots.clear()

    def _finish(self, event: engine_pb2.SessionResponse.FinishEvent) -> None:
        request = self._live.get(event.slot)
        if request is not None:
            if (handed_back := read_handed_back(event)) is not None:
                if event.HasField("usage"):  # the last of its samples
                    request.take_back(handed_back)
                    self._handed_back.add(event.slot)
                return
            request.samples.end(event)
        if not (event.HasField("usage") or event.HasField("error")):
            return  # other samples go on
        if request is not None:
            self._forget(event.slot)
        elif event.slot in self._ending:
            self._ending.remove(event.slot)
        else:
            return
        self._free(event.slot)

    def _forget(self, slot: int) -> None:
        """Nothing more is given to a slot's request."""
        del self._live[slot]
        self._plain.pop(slot, None)

    def _free_slot(self) -> int:
        if self._free_slots:
            return self._free_slots.pop()
        self._num_slots += 1
        return self._num_slots - 1

    def _free(self, slot: int) -> None:
        self._freed_slots.append(slot)
        self._has_ended.set()

    def _send(self, command: Command) -> None:
        self._commands.add(command)
        self._has_news.set()


@dataclass(slots=True)
class Counts:
    """Requests and tokens since the start. Written on the event loop, read from any thread."""

    num_live: int = 0
    """Requests that have not ended."""
    num_requests: int = 0
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    num_moved: int = 0
    """How often requests went on at another engine process."""
