"""Decodes moved on in place, on a CPU: the same tokens as laying every batch out anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import write_checkpoint
from tests.engine.grammars import alternates
from tests.engine.runner.loading import load_on_cpu
from tests.engine.runner.serving import PLAIN, requests_with, serve
from tests.kernels.native import native_instruction_sets
from tokenwire_engine.runner.executor import Sampling
from tokenwire_engine.runner.host_decodes import HostDecodeExecutor
from tokenwire_engine.runner.local import LocalRunner
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.plan import StepPlan

VOCAB_SIZE = 320
SPECIAL = [
    SamplingParams(temperature=0.0, repetition_penalty=1.3),
    SamplingParams(typical_p=0.7, bad_words=((5,), (9, 10)), num_logprobs=2),
]
pytestmark = pytest.mark.skipif(not native_instruction_sets(), reason="the native kernels were not compiled")

MIXED_WINDOWS = {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 2}


def load(directory: Path, *, in_place: bool, **options: Any) -> LocalRunner:
    runner = load_on_cpu(directory, **options)
    if not in_place:
        runner._executors = runner._executors[-1:]
    return runner


@pytest.fixture
def steps_in_place(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that were moved on in place, as they are taken."""
    steps: list[int] = []
    forward = HostDecodeExecutor.forward

    def noting(self: HostDecodeExecutor, plan: StepPlan) -> Sampling | None:
        sampling = forward(self, plan)
        if sampling is not None:
            steps.append(plan.step)
        return sampling

    monkeypatch.setattr(HostDecodeExecutor, "forward", noting)
    return steps


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("sampling", [PLAIN, PLAIN * 3, PLAIN + SPECIAL], ids=["plain", "queued", "special"])
def test_rows_that_are_moved_on_yield_the_tokens_of_new_ones(
    tmp_path: Path,
    steps_in_place: list[int],
    sampling: list[SamplingParams],
    overlap: bool,
) -> None:
    directory = write_checkpoint(tmp_path / "model")
    options = {"max_step_tokens": 24}
    expected, _ = serve(load(directory, in_place=False, **options), requests_with(sampling))
    assert not steps_in_place
    tokens, _ = serve(
        load(directory, in_place=True, **options), requests_with(sampling), prefix_cache=True, overlap=overlap
    )
    assert tokens == expected
    assert steps_in_place


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(
    "sampling", [PLAIN[:1] * 3, PLAIN, PLAIN + SPECIAL], ids=["greedy", "plain", "special"]
)
def test_rows_that_are_moved_on_keep_to_the_masks_that_follow_them(
    tmp_path: Path, steps_in_place: list[int], sampling: list[SamplingParams], overlap: bool
) -> None:
    directory = write_checkpoint(tmp_path / "model")
    requests = requests_with(sampling, VOCAB_SIZE)
    expected, _ = serve(load(directory, in_place=False), requests)
    assert all(alternates(expected[request.request_id]) for request in requests if request.grammar)
    tokens, scheduler = serve(
        load(directory, in_place=True), requests_with(sampling, VOCAB_SIZE), overlap=overlap
    )
    assert tokens == expected
    assert len(steps_in_place) > scheduler.counters.steps / 2


def test_layers_that_see_unequally_far_have_tables_of_their_own(
    tmp_path: Path, steps_in_place: list[int]
) -> None:
    directory = write_checkpoint(tmp_path / "model", "qwen2", **MIXED_WINDOWS)
    expected, _ = serve(load(directory, in_place=False), requests_with(PLAIN * 2))
    tokens, _ = serve(load(directory, in_place=True), requests_with(PLAIN * 2), overlap=True)
    assert tokens == expected
    assert steps_in_place


def test_preempted_requests_keep_their_tokens(tmp_path: Path, steps_in_place: list[int]) -> None:
    directory = write_checkpoint(tmp_path / "model")
    expected, _ = serve(load(directory, in_place=False), requests_with(PLAIN * 2))
    few = {"kv_cache_memory": 16 * 16 * 768, "max_step_tokens": 24}
    tokens, scheduler = serve(load(directory, in_place=True, **few), requests_with(PLAIN * 2), overlap=True)
    assert scheduler.counters.preemptions > 0
    assert tokens == expected
    assert steps_in_place
