"""The bookkeeping of an engine session, against an engine in a few lines, over a wire that loses things."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.patience import PATIENCE_S
from tokenwire.v1 import engine_pb2, generation_pb2
from tokenwire_engine.scheduler.outputs import ChannelOutput
from tokenwire_engine.server.finish import handed_back
from tokenwire_engine.server.outbox import FinishEvent, Outbox
from tokenwire_services.tokenizer import engine_session, outbox
from tokenwire_services.tokenizer.engine_request import EngineRequest
from tokenwire_services.tokenizer.engine_session import Command, EngineSession
from tokenwire_services.tokenizer.samples import Samples

NUM_TOKENS = 6


@dataclass
class Output:
    """Stands for a generation: a request's tokens must be 0, 1, 2, ..., and then its end."""

    tokens: list[int] = field(default_factory=list)
    finished: bool = False
    plain: None = None

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    def push(self, token_id: int) -> None:
        assert not self.finished, "a token after the end"
        assert token_id == len(self.tokens), "a token is missing, or came twice"
        self.tokens.append(token_id)

    def end(self, event: Any) -> None:
        assert event.usage.completion_tokens == NUM_TOKENS, "it failed"
        self.finished = True


class Engine:
    """Counts up to NUM_TOKENS for each request, one a step; remembers one session. While it drains, it hands
    back what is submitted."""

    def __init__(self) -> None:
        self.session_id = ""
        self.outbox = Outbox(keep=True)
        self.live: dict[int, int] = {}
        self.num_commands = 0
        self.num_started = 0
        self.is_draining = False

    def open(self, opening: Command.Open) -> engine_pb2.SessionResponse.Opened | None:
        """The answer; None for NOT_FOUND."""
        if opening.HasField("resume_after_step"):
            if opening.session_id != self.session_id:
                return None
            self.outbox.rewind(opening.resume_after_step)
        else:
            is_draining = self.is_draining
            self.__init__()  # type: ignore[misc]
            self.session_id, self.is_draining = opening.session_id, is_draining
        return engine_pb2.SessionResponse.Opened(commands_received=self.num_commands)

    def take(self, command: Command) -> None:
        if command.HasField("ack"):
            self.outbox.acknowledge(command.ack.step)
            return
        self.num_commands += 1
        if command.HasField("submit"):
            slot = command.submit.slot
            assert slot not in self.live, "a slot was taken twice"
            self.live[slot] = len(command.submit.request.resumed_token_ids)
            if self.is_draining:
                self._hand_back(slot)
            else:
                self.num_started += 1
        elif command.cancel.slot in self.live:
            self._end(command.cancel.slot, generation_pb2.FINISH_REASON_CANCELLED)

    def drain(self) -> None:
        self.is_draining = True
        for slot in list(self.live):
            self._hand_back(slot)

    def step(self) -> None:
        for slot, sent in list(self.live.items()):
            if sent < NUM_TOKENS:
                self.outbox.add(ChannelOutput([slot], [sent]))
                self.live[slot] += 1
            if self.live[slot] == NUM_TOKENS:
                self._end(slot, generation_pb2.FINISH_REASON_LENGTH)

    def _hand_back(self, slot: int) -> None:
        error = handed_back("draining", self.live.pop(slot), seed=1).to_proto()
        self.outbox.add_end(FinishEvent(slot=slot, error=error, usage=generation_pb2.Usage()))

    def _end(self, slot: int, reason: generation_pb2.FinishReason.ValueType) -> None:
        usage = generation_pb2.Usage(completion_tokens=self.live.pop(slot))
        self.outbox.add_end(FinishEvent(slot=slot, reason=reason, usage=usage))


class Wire:
    """One connection at a time between a session and an engine."""

    def __init__(self, session: EngineSession, engine: Engine) -> None:
        self.session = session
        self.engine = engine
        self._writer: asyncio.Task[None] | None = None
        self._commands: list[Command] = []
        self._messages: list[engine_pb2.SessionResponse] = []

    async def connect(self) -> None:
        """Lose what is on its way, and begin again."""
        if self._writer is not None:
            self._writer.cancel()
        self._commands, self._messages = [], []
        opened = self.engine.open(self.session.opening().open)
        if opened is None:
            self.session.move()
            opened = self.engine.open(self.session.opening().open)
        assert opened is not None
        self.session.opened(opened)
        self._writer = asyncio.create_task(self._write(self._commands))

    async def up(self, count: int) -> None:
        """Let some commands arrive."""
        await asyncio.sleep(0)
        for _ in range(min(count, len(self._commands))):
            self.engine.take(self._commands.pop(0))

    async def down(self, count: int) -> None:
        """Let some messages arrive."""
        while not self.engine.outbox.is_empty:
            self._messages.append(self.engine.outbox.take(self.engine.num_commands))
        for _ in range(min(count, len(self._messages))):
            self.session.receive(self._messages.pop(0))

    async def turn(self) -> None:
        """A step at which nothing is held up."""
        await self.up(1000)
        self.engine.step()
        await self.down(1000)

    async def _write(self, commands: list[Command]) -> None:
        while True:
            commands.append(await self.session.next_command())


actions = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["submit", "step", "turn", "cut", "die", "drain", "admit"]), st.just(1)),
        st.tuples(st.sampled_from(["up", "down"]), st.integers(1, 5)),
        st.tuples(st.just("cancel"), st.integers(0, 10)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(actions)
def test_whatever_breaks_every_request_gets_its_tokens_once(actions: list[tuple[str, int]]) -> None:
    asyncio.run(play(actions))


async def play(actions: list[tuple[str, int]]) -> None:
    session = EngineSession(grace_ms=1000)
    wire = Wire(session, Engine())
    await wire.connect()
    requests: list[tuple[EngineRequest, Samples]] = []
    cancelled: set[int] = set()
    deaths = drains = 0
    for action, value in actions:
        if action == "submit":
            output: Any = Output()
            samples = Samples(0, outbox.Outbox(1 << 20), num_prompt_tokens=1, generations=[output])
            requests.append((session.submit(engine_pb2.GenerateRequest(), samples), samples))
        elif action == "cancel" and value < len(requests) and not requests[value][1].finished:
            request, samples = requests[value]
            samples.generations[0].finished = True
            request.cancel()
            cancelled.add(value)
        elif action == "step":
            wire.engine.step()
        elif action == "turn":
            await wire.turn()
        elif action == "up":
            await wire.up(value)
        elif action == "down":
            await wire.down(value)
        elif action == "cut":
            await wire.connect()
        elif action == "die" and deaths < engine_session.MAX_MOVES:
            deaths += 1
            wire.engine = Engine()
            await wire.connect()
        elif action == "drain":
            drains += 1
            wire.engine.drain()
        elif action == "admit":
            wire.engine.is_draining = False
            session.submit_again()
    wire.engine.is_draining = False
    for _ in range(NUM_TOKENS + 2):
        await wire.turn()
        session.submit_again()
    for number, (_, samples) in enumerate(requests):
        (output,) = samples.generations
        assert output.finished
        if number not in cancelled:
            assert output.tokens == list(range(NUM_TOKENS))
    if not deaths and not drains:
        assert wire.engine.num_started == len(requests)
    await wire.up(1000)
    assert not wire.engine.live
    await asyncio.wait_for(session.idle(), PATIENCE_S)


async def test_acknowledgements_come_by_messages_and_by_tokens() -> None:
    session = EngineSession(grace_ms=1000)
    session.opening()
    session.opened(engine_pb2.SessionResponse.Opened())
    for step in range(1, 17):
        session.receive(engine_pb2.SessionResponse(step=step))
    assert (await session.next_command()).ack.step == 16
    many = [0] * 8192
    session.receive(engine_pb2.SessionResponse(step=17, slots=many, token_ids=many))
    assert (await session.next_command()).ack.step == 17
