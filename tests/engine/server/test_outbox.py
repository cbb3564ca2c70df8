"""A session's outbox: each token in one message, whatever is cut, read or acknowledged when."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire.v1 import engine_pb2
from tokenwire_engine.sampling.logprobs import Logprobs
from tokenwire_engine.scheduler.outputs import ChannelOutput
from tokenwire_engine.server import outbox as module
from tokenwire_engine.server.outbox import MESSAGE_SIZE, FinishEvent, Outbox

Message = engine_pb2.SessionResponse


@pytest.fixture(autouse=True)
def _small_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MESSAGE_TOKENS", 3)
    monkeypatch.setattr(module, "MAX_MESSAGE_EVENTS", 2)


actions = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.lists(st.integers(0, 5), min_size=1, max_size=8)),
        st.tuples(st.just("end"), st.integers(0, 5)),
        st.tuples(st.just("send"), st.integers(1, 4)),
        st.tuples(st.just("lose"), st.integers(1, 4)),
        st.tuples(st.just("acknowledge"), st.integers(0, 10)),
        st.tuples(st.just("cut"), st.none()),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(actions)
def test_whatever_is_lost_and_sent_again_the_peer_gets_everything_once_in_order(
    actions: list[tuple[str, object]],
) -> None:
    outbox = Outbox(keep=True)
    produced: list[tuple[int, int]] = []
    ends: list[int] = []
    received: list[Message] = []
    acknowledged = 0
    broken = False  # what is sent no longer arrives

    def resume() -> None:
        outbox.rewind(received[-1].step if received else 0)

    def send(arrives: bool) -> None:
        message = outbox.take(0)
        if arrives:
            received.append(message)

    for action, value in actions:
        if action == "step":
            assert isinstance(value, list)
            tokens = list(range(len(produced), len(produced) + len(value)))
            produced += zip(value, tokens, strict=True)
            outbox.add(ChannelOutput(list(value), tokens))
        elif action == "end":
            assert isinstance(value, int)
            ends.append(value)
            outbox.add_end(FinishEvent(slot=value))
        elif action in ("send", "lose"):
            assert isinstance(value, int)
            broken = broken or action == "lose"
            for _ in range(value):
                if not outbox.is_empty:
                    send(arrives=not broken)
        elif action == "acknowledge" and received:
            assert isinstance(value, int)
            acknowledged = max(acknowledged, received[-1].step - value)
            outbox.acknowledge(max(0, acknowledged))
        elif action == "cut":
            resume()
            broken = False
    resume()
    while not outbox.is_empty:
        send(arrives=True)

    steps = [message.step for message in received]
    assert steps == list(range(1, len(steps) + 1))
    columns = [pair for m in received for pair in zip(m.slots, m.token_ids, strict=True)]
    assert columns == produced
    assert [event.slot for m in received for event in m.finished] == ends
    assert all(len(m.slots) <= 3 and len(m.finished) <= 2 for m in received)
    if received:
        outbox.acknowledge(received[-1].step)
    assert outbox.size == 0


def test_what_is_held_counts_until_it_is_acknowledged() -> None:
    outbox = Outbox(keep=True)
    outbox.add(ChannelOutput([1, 2], [10, 20]))
    assert outbox.size == 2
    message = outbox.take(0)
    assert outbox.size == 2 + MESSAGE_SIZE
    outbox.acknowledge(message.step)
    assert outbox.size == 0


def test_without_keeping_a_message_is_forgotten_when_it_is_taken() -> None:
    outbox = Outbox(keep=False)
    outbox.add(ChannelOutput([1, 2], [10, 20]))
    outbox.add_end(FinishEvent(slot=1))
    outbox.take(0)
    assert outbox.size == 0
    assert outbox.is_empty


def test_a_message_sent_again_is_the_same() -> None:
    outbox = Outbox(keep=True)
    outbox.add(ChannelOutput([1], [10]))
    first = outbox.take(7)
    outbox.add(ChannelOutput([1], [11]))
    outbox.rewind(0)
    assert outbox.take(9) == first
    assert list(outbox.take(9).token_ids) == [11]


def test_only_steps_that_were_sent_can_be_acknowledged_and_none_is_taken_back() -> None:
    outbox = Outbox(keep=True)
    for token in range(3):
        outbox.add(ChannelOutput([1], [token]))
        outbox.take(0)
    with pytest.raises(ValueError, match="is 4; the latest step sent is 3"):
        outbox.acknowledge(4)
    outbox.acknowledge(2)
    with pytest.raises(ValueError, match="is 1; step 2 was acknowledged"):
        outbox.rewind(1)


def test_the_samples_of_tokens_come_once_one_of_them_is_not_the_first() -> None:
    outbox = Outbox(keep=False)
    outbox.add(ChannelOutput([1], [10]))
    outbox.add(ChannelOutput([1, 2], [11, 20], sample_indices=[1, 0]))
    assert list(outbox.take(0).sample_indices) == [0, 1, 0]
    outbox.add(ChannelOutput([1], [12]))
    assert not outbox.take(0).sample_indices


@pytest.mark.parametrize("most", [2, 3, 100])
def test_all_that_is_said_of_prompts_goes_out_before_the_tokens_behind_them(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(module, "MAX_MESSAGE_LOGPROBS", most)
    outbox = Outbox(keep=False)
    scored = [(slot, Logprobs(0, [-1.0, -2.0], [1, 1])) for slot in (1, 2, 3)]
    outbox.add(ChannelOutput([1, 2, 3], [7, 8, 9], prompt_logprobs=scored))
    said: dict[int, list[float]] = {}
    tokens: list[int] = []
    while not outbox.is_empty:
        message = outbox.take(0)
        for part in message.logprobs:
            said.setdefault(part.slot, []).extend(part.prompt.token_logprobs)
        assert all(len(said[slot]) == 2 for slot in message.slots)
        tokens += message.token_ids
    assert (list(said), tokens, outbox.size) == ([1, 2, 3], [7, 8, 9], 0)
