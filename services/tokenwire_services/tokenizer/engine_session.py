"""The slots of one session with the engine: commands out, columns of tokens in.

Bookkeeping without I/O. A slot is reused only after the engine's finish event for it, so tokens of a
cancelled request never reach the next one.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque

import grpc

from tokenwire.status import StatusError
from tokenwire.v1 import engine_pb2
from tokenwire_services.tokenizer.generation import Generation

log = logging.getLogger(__name__)

Command = engine_pb2.SessionRequest

_ACK_EVERY = 16
"""Engine messages between acknowledgements: the engine keeps that many."""


class EngineSession:
    """All of this process's requests over one stream."""

    def __init__(self) -> None:
        self._live: dict[int, Generation] = {}
        self._ending: set[int] = set()  # cancelled; the engine's finish event is on its way
        self._free_slots: list[int] = []
        self._unacknowledged = 0
        self._commands: deque[Command] = deque()
        self._has_commands = asyncio.Event()
        self._send(Command(open=Command.Open(session_id=str(uuid.uuid4()))))

    def submit(self, request: engine_pb2.GenerateRequest, generation: Generation) -> int:
        """Start a request whose output goes to `generation`; returns the slot to cancel it by."""
        slot = self._free_slots.pop() if self._free_slots else len(self._live) + len(self._ending)
        self._live[slot] = generation
        self._send(Command(submit=Command.Submit(slot=slot, request=request)))
        return slot

    def cancel(self, slot: int, generation: Generation) -> None:
        """Route nothing more to `generation` and have the engine end it; harmless when it has ended."""
        if self._live.get(slot) is generation:
            del self._live[slot]
            self._ending.add(slot)
            self._send(Command(cancel=Command.Cancel(slot=slot)))

    def fail(self, error: StatusError) -> None:
        """End every request: the stream broke."""
        for generation in self._live.values():
            generation.fail(error)
        self._live.clear()

    async def next_command(self) -> Command:
        """The next command to send, in order."""
        while not self._commands:
            self._has_commands.clear()
            await self._has_commands.wait()
        return self._commands.popleft()

    def receive(self, message: engine_pb2.SessionResponse) -> None:
        """Route one engine step's output."""
        live = self._live
        for event in message.finished:
            if event.HasField("stop_token_id") and event.slot in live:
                live[event.slot].expect_stop(event.stop_token_id)
        for part in message.logprobs:
            generation = live.get(part.slot)
            if generation is not None and generation.logprobs is not None:
                generation.logprobs.arrive(part.tokens)
        for slot, token_id in zip(message.slots, message.token_ids, strict=True):
            generation = live.get(slot)
            if generation is None:
                continue
            try:
                generation.push(token_id)
            except Exception:  # one request's trouble must not end the others
                log.exception("the request in slot %d failed on token %d", slot, token_id)
                generation.fail(StatusError(grpc.StatusCode.INTERNAL, f"token {token_id} cannot be decoded"))
            if generation.finished:
                self.cancel(slot, generation)
        for event in message.finished:
            self._finish(event)
        self._unacknowledged += 1
        if self._unacknowledged >= _ACK_EVERY:
            self._unacknowledged = 0
            self._send(Command(ack=Command.Ack(step=message.step)))

    def _finish(self, event: engine_pb2.SessionResponse.FinishEvent) -> None:
        generation = self._live.pop(event.slot, None)
        if generation is not None:
            if event.HasField("error"):
                generation.fail(StatusError.from_proto(event.error))
            else:
                generation.end(event)
        elif event.slot in self._ending:
            self._ending.remove(event.slot)
        else:
            return
        self._free_slots.append(event.slot)

    def _send(self, command: Command) -> None:
        self._commands.append(command)
        self._has_commands.set()
