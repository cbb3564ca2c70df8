"""The slots of a session, without a connection."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire.status import StatusError, unavailable
from tokenwire.v1 import generation_pb2, tokenizer_pb2
from tokenwire.wakeup import Wakeup
from tokenwire_services.gateway.metrics import Metrics
from tokenwire_services.gateway.session import Session

Message = tokenizer_pb2.TokenizerSessionResponse
Request = tokenizer_pb2.TokenizerGenerateRequest
STOP = generation_pb2.FINISH_REASON_STOP
SETTLED = Message(step=64)
"""Behind so many steps, slots whose requests have ended are free."""


def text(slot: int, text: str) -> Message:
    return Message(slots=[slot], text_deltas=[text], token_counts=[1], token_ids=[7])


def end(slot: int) -> Message:
    usage = generation_pb2.Usage()
    return Message(finished=[Message.FinishEvent(slot=slot, reason=STOP, usage=usage)])


def test_a_slot_is_used_again_only_after_its_finish_event() -> None:
    session = Session(Metrics())
    first = session.submit(Request(), Wakeup(), True)
    session.cancel(first)
    second = session.submit(Request(), Wakeup(), True)
    assert second.slot != first.slot
    session.deliver(text(first.slot, "late"))
    session.deliver(end(first.slot))
    session.deliver(SETTLED)
    third = session.submit(Request(), Wakeup(), True)
    assert third.slot == first.slot
    assert [submission.generations[0].texts for submission in (first, second, third)] == [[], [], []]


def test_a_request_for_several_samples_ends_with_the_last_of_them() -> None:
    session = Session(Metrics())
    submission = session.submit(Request(sampling={"num_samples": 2}), Wakeup(), True)
    first, second = submission.generations
    said = Message.Detail(slot=0, response={"text_delta": "b", "sample_index": 1})
    session.deliver(Message(details=[said], finished=[{"slot": 0, "sample_index": 1, "reason": STOP}]))
    assert (first.done, second.done, second.texts) == (False, True, ["b"])
    assert session.submit(Request(), Wakeup(), True).slot == 1
    session.deliver(end(0))
    assert first.done
    session.deliver(SETTLED)
    assert session.submit(Request(), Wakeup(), True).slot == 0


def test_what_arrived_is_counted_when_the_last_request_ends() -> None:
    metrics = Metrics()
    session = Session(metrics)
    submissions = [session.submit(Request(), Wakeup(), True) for _ in range(2)]
    for message in (text(0, "a"), text(1, "b"), text(1, "c"), end(0), end(1)):
        session.deliver(message)
    assert all(submission.done for submission in submissions)
    value = metrics.registry.get_sample_value
    assert value("tokenwire_generation_tokens_total") == 3
    assert value("tokenwire_time_to_first_token_seconds_count") == 2
    assert value("tokenwire_inter_token_latency_seconds_count") == 1


def test_a_cancelled_request_has_waited_for_what_came_before() -> None:
    metrics = Metrics()
    session = Session(metrics)
    submission = session.submit(Request(), Wakeup(), True)
    session.deliver(text(0, "a"))
    session.cancel(submission)
    session.deliver(text(0, "late"))
    session.deliver(SETTLED)
    value = metrics.registry.get_sample_value
    assert value("tokenwire_generation_tokens_total") == 2
    assert value("tokenwire_time_to_first_token_seconds_count") == 1
    assert value("tokenwire_inter_token_latency_seconds_count") == 0


def test_a_request_too_large_to_send_is_refused_before_it_takes_a_slot() -> None:
    session = Session(Metrics())
    with pytest.raises(StatusError, match="expected at most"):
        session.submit(Request(text="x" * (25 << 20)), Wakeup(), True)
    assert session.num_live == 0


async def test_closing_ends_every_request_and_then_the_commands() -> None:
    session = Session(Metrics())
    (generation,) = session.submit(Request(), Wakeup(), True).generations
    error = unavailable("gone")
    session.close(error)
    assert generation.done
    assert generation.error is error
    kinds = []
    while (command := await session.next_command()) is not None:
        kinds.append(command.WhichOneof("command"))
    assert kinds == ["submit", "cancel"]


@given(
    st.lists(st.tuples(st.sampled_from(["submit", "text", "end", "cancel"]), st.integers(0, 7)), max_size=60)
)
def test_every_request_gets_exactly_its_own_text(actions: list[tuple[str, int]]) -> None:
    session = Session(Metrics())
    running: dict[int, Any] = {}  # by slot, as the tokenizer sees it
    expected: dict[int, list[str]] = {}
    submissions = []
    for number, (action, choice) in enumerate(actions):
        if action == "submit":
            submission = session.submit(Request(), Wakeup(), True)
            assert submission.slot not in running
            running[submission.slot] = submission
            expected[id(submission)] = []
            submissions.append(submission)
        elif running:
            slot = sorted(running)[choice % len(running)]
            submission = running[slot]
            if action == "text":
                if not submission.done:
                    expected[id(submission)].append(str(number))
                session.deliver(text(slot, str(number)))
            elif action == "end":
                session.deliver(end(slot))
                del running[slot]
            else:
                session.cancel(submission)
    for submission in submissions:
        (generation,) = submission.generations
        assert generation.texts == expected[id(submission)]
        assert generation.done == submission.done
    assert session.num_live == sum(not submission.done for submission in submissions)


def test_a_request_that_moves_takes_along_the_tokens_of_all_that_it_has_received() -> None:
    session = Session(Metrics())
    first = session.submit(Request(), Wakeup(), True)
    second = session.submit(Request(), Wakeup(), True)
    texts = {"slots": [0, 1], "text_deltas": ["a", "b"]}
    session.deliver(Message(step=1, token_counts=[1, 1], token_ids=[7, 8], **texts))
    session.deliver(Message(step=2, token_counts=[0, 2], token_ids=[9, 10], **texts))
    session.deliver(Message(step=20, token_counts=[1, 0], token_ids=[11], **texts))
    session.deliver(Message(step=21, token_counts=[1, 1], token_ids=[12, 13], **texts))
    session.move()
    received = [submission.request.resumption.samples[0].ids for submission in (first, second)]
    assert received == [[7, 11, 12], [8, 9, 10, 13]]


def test_slots_and_texts_that_do_not_fit_each_other_are_an_error_at_once() -> None:
    session = Session(Metrics())
    session.submit(Request(), Wakeup(), True)
    with pytest.raises(ValueError, match="1 slots have 0 texts"):
        session.deliver(Message(slots=[0], token_counts=[1], token_ids=[7]))
    session.move()
