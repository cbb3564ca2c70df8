"""The native kernels' threads."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.kernels.native import native_instruction_sets
from tokenwire_kernels.cpu import Context, Format, Operators, PackedMatrix, linear

pytestmark = pytest.mark.skipif(not native_instruction_sets(), reason="the native kernels were not compiled")


@pytest.fixture(autouse=True)
def _on_the_host() -> None:
    torch.set_default_device("cpu")


def pool_threads() -> list[tuple[str, str]]:
    """(id, state) of this process's native threads."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().strip() == "tokenwire-cpu":
            found.append((task.name, (task / "stat").read_text().rpartition(")")[2].split()[0]))
    return found


def packed(context: Context, n: int, k: int) -> PackedMatrix:
    matrix = PackedMatrix(context, n, k, Format("float32"))
    matrix.pack(0, torch.randn(n, k))
    return matrix


def test_threads_sleep_between_calls() -> None:
    context = Context(3)
    matrix = packed(context, 200, 100)
    for _ in range(20):
        linear(torch.randn(9, 100), matrix)
    deadline = time.monotonic() + 30
    while any(state != "S" for _, state in pool_threads()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(pool_threads()) >= 2


def test_threads_end_with_their_context() -> None:
    before = len(pool_threads())
    context = Context(4)
    assert len(pool_threads()) == before + 3
    del context
    assert len(pool_threads()) == before


def test_a_caller_is_pinned_to_the_cpu_that_is_left() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    context = Context(2, [cpus[0], cpus[-1]])
    with ThreadPoolExecutor(1) as executor:
        executor.submit(context.pin_caller).result()
        assert executor.submit(os.sched_getaffinity, 0).result() == {cpus[0]}
        executor.submit(Context(2).pin_caller).result()
    assert os.sched_getaffinity(0) == set(cpus)


def test_a_thread_is_pinned_to_the_cpu_that_it_was_given() -> None:
    before = {name for name, _ in pool_threads()}
    cpus = sorted(os.sched_getaffinity(0))
    context = Context(2, [cpus[0], cpus[-1]])
    (added,) = {name for name, _ in pool_threads()} - before
    assert os.sched_getaffinity(int(added)) == {cpus[-1]}
    del context


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_result(num_threads: int) -> None:
    torch.manual_seed(0)
    matrix, x = packed(Context(num_threads), 300, 200), torch.randn(30, 200)
    torch.manual_seed(0)
    alone = packed(Context(1), 300, 200)
    assert torch.equal(linear(x, matrix), linear(x, alone))


def test_callers_in_several_threads_take_turns() -> None:
    context = Context(3)
    matrix, operators = packed(context, 100, 64), Operators(context)
    inputs = [torch.randn(1 + index % 7, 64) for index in range(200)]
    expected = [linear(x, matrix) for x in inputs]

    def compute(index: int) -> bool:
        y = linear(inputs[index], matrix)
        return torch.equal(y, expected[index]) and torch.equal(operators.greedy(y), y.argmax(dim=1))

    with ThreadPoolExecutor(4) as callers:
        assert all(callers.map(compute, range(200)))
