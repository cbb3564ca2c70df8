"""Between the calls and the core's thread: outputs find their receivers, ids are taken once."""

from __future__ import annotations

import grpc
import pytest

from tokenwire.status import StatusError, unavailable
from tokenwire_engine.core.commands import Cancel, Command, Submit
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.outputs import ChannelOutput, Finished
from tokenwire_engine.scheduler.request import FinishReason, Request
from tokenwire_engine.server.dispatch import Dispatcher


class Recorder:
    """Keeps what it hears."""

    is_flushed = True

    def __init__(self) -> None:
        self.outputs: list[ChannelOutput] = []
        self.errors: list[StatusError] = []

    def receive(self, output: ChannelOutput) -> None:
        self.outputs.append(output)

    def fail(self, error: StatusError) -> None:
        self.errors.append(error)


@pytest.fixture
def commands() -> list[Command]:
    return []


@pytest.fixture
def dispatcher(commands: list[Command]) -> Dispatcher:
    return Dispatcher(commands.append, max_live=8, estimate_wait_s=lambda: 2.5)


def request(request_id: str, channel: int) -> Request:
    return Request(request_id, [1], SamplingParams(), max_tokens=1, channel=channel)


def end_of(request_id: str) -> ChannelOutput:
    return ChannelOutput(finished=[Finished(request_id, 0, FinishReason.LENGTH, 1, 1)])


def test_outputs_reach_the_receiver_of_their_channel_only(dispatcher: Dispatcher) -> None:
    first, second = Recorder(), Recorder()
    channel = dispatcher.open(first)
    dispatcher.open(second)
    output = ChannelOutput([0], [5])
    dispatcher.deliver({channel: output})
    assert (first.outputs, second.outputs) == ([output], [])


def test_closing_a_channel_cancels_what_lives_in_it(dispatcher: Dispatcher, commands: list[Command]) -> None:
    channel = dispatcher.open(Recorder())
    ended, live = request("ended", channel), request("live", channel)
    dispatcher.submit(ended)
    dispatcher.submit(live)
    dispatcher.deliver({channel: end_of("ended")})
    dispatcher.close(channel)
    assert commands == [Submit(ended), Submit(live), Cancel(("live",))]


def test_an_id_is_taken_until_the_core_says_that_its_request_ended(dispatcher: Dispatcher) -> None:
    channel = dispatcher.open(Recorder())
    dispatcher.submit(request("a", channel))
    dispatcher.close(channel)
    other = dispatcher.open(Recorder())
    with pytest.raises(StatusError) as caught:
        dispatcher.submit(request("a", other))
    assert caught.value.code is grpc.StatusCode.ALREADY_EXISTS
    dispatcher.deliver({channel: end_of("a")})
    dispatcher.submit(request("a", other))


@pytest.mark.parametrize(("wait_s", "retry_s"), [(2.5, 2.5), (0.0, 0.1), (1e9, 60.0), (None, 5.0)], ids=str)
def test_a_full_engine_refuses_until_its_queue_will_have_drained(
    wait_s: float | None, retry_s: float
) -> None:
    dispatcher = Dispatcher([].append, max_live=1, estimate_wait_s=lambda: wait_s)
    channel = dispatcher.open(Recorder())
    dispatcher.submit(request("a", channel))
    with pytest.raises(StatusError) as caught:
        dispatcher.submit(request("b", channel))
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.retry_after_s == retry_s
    dispatcher.deliver({channel: end_of("a")})
    dispatcher.submit(request("b", channel))


def test_more_samples_than_an_engine_ever_holds_are_refused_for_good() -> None:
    dispatcher = Dispatcher([].append, max_live=3, estimate_wait_s=lambda: None)
    channel = dispatcher.open(Recorder())
    large = request("large", channel)
    large.num_samples = 4
    with pytest.raises(
        StatusError, match="4 are more requests than the engine holds at a time, which is 3"
    ) as caught:
        dispatcher.submit(large)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.field == "sampling.num_samples"
    large.num_samples = 3
    dispatcher.submit(large)


def test_after_the_end_every_receiver_and_every_newcomer_hears_the_error(dispatcher: Dispatcher) -> None:
    receiver = Recorder()
    dispatcher.open(receiver)
    error = unavailable("the engine is shutting down")
    dispatcher.fail_all(error)
    assert receiver.errors == [error]
    with pytest.raises(StatusError) as caught:
        dispatcher.open(Recorder())
    assert caught.value is error


def test_a_request_takes_the_place_of_the_one_that_it_continues(commands: list[Command]) -> None:
    dispatcher = Dispatcher(commands.append, max_live=1, estimate_wait_s=lambda: None)
    lost, found = dispatcher.open(Recorder()), dispatcher.open(Recorder())
    first, second = request("first", lost), request("second", found)
    dispatcher.submit(first)
    dispatcher.submit(second, continued_request_id="first")
    assert commands == [Submit(first), Cancel(("first",)), Submit(second)]
