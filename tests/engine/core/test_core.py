"""The thread that schedules and computes: commands in, outputs out, and what failures leave intact."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from queue import Queue

import pytest

from tests.engine.grammars import Alternating, alternates
from tests.engine.hash_runner import VOCAB_SIZE, HashRunner, continuation
from tests.patience import PATIENCE_S
from tokenwire_engine.core.commands import Cancel, Shutdown, Submit
from tokenwire_engine.core.core import EngineCore
from tokenwire_engine.core.pace import HURRIED_STEPS, MOST_STEPS
from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.runner.base import DeviceLostError
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.grammar import Grammar
from tokenwire_engine.scheduler.outputs import Finished, Outputs
from tokenwire_engine.scheduler.request import FinishReason, Request
from tokenwire_engine.scheduler.scheduler import Scheduler, SchedulerLimits


class Running:
    """A core on a thread of its own, and what it delivers."""

    def __init__(self, overlap: bool, delivery_interval_s: float = 0.0) -> None:
        self.runner = HashRunner()
        info = self.runner.info
        limits = SchedulerLimits(8, info.max_step_tokens, info.max_model_len)
        scheduler = Scheduler(limits, BlockPool(info.num_blocks, info.block_size))
        self.outputs: Queue[Outputs] = Queue()
        self.core = EngineCore(scheduler, self.runner, self.outputs.put, overlap, delivery_interval_s)
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.core.run()
        except Exception as error:
            self.error = error

    def submit(
        self, request_id: str, prompt: list[int], max_tokens: int = 8, grammar: Grammar | None = None
    ) -> None:
        request = Request(
            request_id, prompt, SamplingParams(), max_tokens, label=ord(request_id), grammar=grammar
        )
        self.core.send(Submit(request))

    def until_all_finished(self, *request_ids: str) -> tuple[dict[str, list[int]], dict[str, Finished]]:
        """All tokens and the ends of requests, each of which was submitted with the label of its id."""
        tokens: dict[str, list[int]] = {name: [] for name in request_ids}
        ends: dict[str, Finished] = {}
        while len(ends) < len(request_ids):
            output = self.outputs.get(timeout=PATIENCE_S)[0]
            for label, token in zip(output.labels, output.token_ids, strict=True):
                if chr(label) in tokens:
                    tokens[chr(label)].append(token)
            ends |= {finished.request_id: finished for finished in output.finished}
        return tokens, ends

    def until_finished(self, request_id: str) -> tuple[list[int], Finished]:
        """All tokens up to a request's end, and that end."""
        tokens: list[int] = []
        while True:
            output = self.outputs.get(timeout=PATIENCE_S)[0]
            tokens += output.token_ids
            for finished in output.finished:
                if finished.request_id == request_id:
                    return tokens, finished

    def stop(self) -> None:
        self.runner.resume()
        self.core.send(Shutdown())
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


@pytest.fixture(params=[True, False], ids=["overlapped", "one by one"])
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    running = Running(request.param)
    yield running
    running.stop()


@pytest.fixture
def unhurried() -> Iterator[Running]:
    """A core that never finds a message due."""
    running = Running(overlap=True, delivery_interval_s=1e9)
    yield running
    running.stop()


def test_a_submitted_request_is_computed_to_its_end(running: Running) -> None:
    running.submit("a", [1, 2])
    tokens, finished = running.until_finished("a")
    assert tokens == continuation([1, 2], 8)
    assert finished.reason is FinishReason.LENGTH


def test_outputs_come_once_per_step(running: Running) -> None:
    running.submit("a", [1, 2], max_tokens=5)
    steps = [running.outputs.get(timeout=PATIENCE_S)[0].token_ids for _ in range(5)]
    assert [len(tokens) for tokens in steps] == [1] * 5


def test_tokens_wait_for_those_of_the_next_steps_but_for_the_first_and_the_last(unhurried: Running) -> None:
    num_alone = 1 + HURRIED_STEPS
    unhurried.submit("a", [1, 2], max_tokens=num_alone + MOST_STEPS + 2)
    messages = [unhurried.outputs.get(timeout=PATIENCE_S)[0] for _ in range(num_alone + 2)]
    assert [len(message.token_ids) for message in messages] == [1] * num_alone + [MOST_STEPS, 2]
    assert [len(message.finished) for message in messages] == [0] * (num_alone + 1) + [1]


def test_tokens_do_not_wait_for_a_step_that_computes_a_prompt(unhurried: Running) -> None:
    unhurried.runner.hold()
    unhurried.submit("a", [1], max_tokens=200)
    unhurried.runner.allow(1 + HURRIED_STEPS)
    for _ in range(1 + HURRIED_STEPS):
        assert len(unhurried.outputs.get(timeout=PATIENCE_S)[0].token_ids) == 1
    unhurried.submit("b", [2] * 50)
    unhurried.runner.allow(2)  # behind them at the latest, the prompt
    tokens = unhurried.outputs.get(timeout=PATIENCE_S)[0].token_ids
    assert tokens == continuation([1], 1 + HURRIED_STEPS + len(tokens))[1 + HURRIED_STEPS :]
    unhurried.core.send(Cancel(("a", "b")))


def test_the_load_is_up_to_date_when_an_end_is_delivered(running: Running) -> None:
    running.submit("a", [1] * 100, max_tokens=5)
    running.until_finished("a")
    load = running.core.load
    assert load.free_kv_blocks == load.total_kv_blocks
    assert (load.running_requests, load.finished_requests, load.generated_tokens) == (0, 1, 5)


def test_a_cancelled_request_ends_before_the_next_step_is_planned(running: Running) -> None:
    running.runner.hold()
    running.submit("a", [1], max_tokens=200)
    running.runner.allow(1)
    running.outputs.get(timeout=PATIENCE_S)
    running.core.send(Cancel(("a", "unknown")))
    running.runner.resume()
    _, finished = running.until_finished("a")
    assert finished.reason is FinishReason.CANCELLED
    assert running.runner.steps <= 3  # one had been launched behind the one that ran


def test_an_idle_core_is_asleep(running: Running) -> None:
    running.submit("a", [1])
    running.until_finished("a")
    assert running.thread.ident is not None
    clock = time.pthread_getcpuclockid(running.thread.ident)
    for _ in range(100):  # until it has come to rest
        before = time.clock_gettime(clock)
        time.sleep(0.1)
        if time.clock_gettime(clock) == before:
            return
    raise AssertionError("the thread is at work")


def test_a_failed_step_fails_its_requests_and_the_next_are_served(running: Running) -> None:
    running.runner.fail_next = RuntimeError("out of luck")
    running.submit("a", [1])
    _, finished = running.until_finished("a")
    assert finished.reason is FinishReason.ERROR
    assert "RuntimeError: out of luck" in finished.error
    running.submit("b", [2])
    assert running.until_finished("b")[0] == continuation([2], 8)
    assert running.core.load.free_kv_blocks == running.core.load.total_kv_blocks


def test_a_step_that_fails_late_fails_its_requests_and_the_others_go_on(running: Running) -> None:
    running.runner.hold()
    running.submit("a", [1])
    running.submit("b", [2])
    labels: set[int] = set()
    while labels != {ord("a"), ord("b")}:  # from then on, each step is theirs
        running.runner.allow(1)
        labels.update(running.outputs.get(timeout=PATIENCE_S)[0].labels)
    running.runner.until_held_up()
    running.submit("c", [3])  # in none of the steps on their way
    running.runner.fail_collect = RuntimeError("out of luck")
    running.runner.resume()
    tokens, ends = running.until_all_finished("a", "b", "c")
    assert [ends[name].reason for name in "abc"] == [
        FinishReason.ERROR,
        FinishReason.ERROR,
        FinishReason.LENGTH,
    ]
    assert tokens["c"] == continuation([3], 8)
    assert running.core.load.free_kv_blocks == running.core.load.total_kv_blocks


def test_a_constrained_request_gets_a_token_in_every_step_of_the_others(running: Running) -> None:
    running.runner.hold()
    running.submit("a", [1], max_tokens=50, grammar=Alternating(VOCAB_SIZE))
    running.submit("b", [2], max_tokens=50)
    running.runner.resume()
    tokens, _ = running.until_all_finished("a", "b")
    assert len(tokens["a"]) == 50
    assert alternates(tokens["a"])
    assert tokens["b"] == continuation([2], 50)
    assert running.runner.steps < 55
    assert len(running.runner.constrained) == 50


def test_a_step_that_fails_at_sampling_fails_its_requests_and_the_next_are_served(running: Running) -> None:
    running.runner.fail_constrain = RuntimeError("out of luck")
    running.submit("a", [1], grammar=Alternating(VOCAB_SIZE))
    _, finished = running.until_finished("a")
    assert finished.reason is FinishReason.ERROR
    assert "RuntimeError: out of luck" in finished.error
    running.submit("b", [2], grammar=Alternating(VOCAB_SIZE))
    tokens, finished = running.until_finished("b")
    assert len(tokens) == 8
    assert alternates(tokens)
    assert running.core.load.free_kv_blocks == running.core.load.total_kv_blocks


def test_a_lost_device_ends_the_loop(running: Running) -> None:
    running.runner.fail_next = DeviceLostError("the card is gone")
    running.submit("a", [1])
    running.thread.join(PATIENCE_S)
    assert isinstance(running.error, DeviceLostError)


def test_shutdown_ends_the_loop_with_requests_running(running: Running) -> None:
    running.runner.hold()
    running.submit("a", [1], max_tokens=200)
    running.core.send(Shutdown())
    running.runner.allow(2)
    running.thread.join(PATIENCE_S)
    assert not running.thread.is_alive()
