"""Passes that are replayed: the tokens of steps with prompts are those of computing each batch as it is."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from tests.checkpoints import write_checkpoint
from tests.engine.driver import GREEDY, generate
from tests.engine.runner.loading import Recorder, load_on_cpu, num_written, poisoned_caches
from tests.engine.runner.serving import PLAIN, requests_with, serve
from tokenwire_engine.runner.eager import EagerExecutor
from tokenwire_engine.runner.executor import Sampling
from tokenwire_engine.runner.forward_graphs import PassShape, most_pass_tokens, pass_shapes
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.plan import PENDING, Admission, ScheduledTokens, StepPlan

SPECIAL = [
    SamplingParams(temperature=0.0, repetition_penalty=1.3),
    SamplingParams(typical_p=0.7, bad_words=((5,), (9, 10)), num_logprobs=2),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model")


@pytest.fixture
def eager_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each pass that is computed operator by operator."""
    passes: list[int] = []
    forward = EagerExecutor.forward

    def noted(self: EagerExecutor, plan: StepPlan) -> Sampling:
        passes.append(plan.num_tokens)
        return forward(self, plan)

    monkeypatch.setattr(EagerExecutor, "forward", noted)
    return passes


def test_shapes_are_near_to_each_other_and_end_with_the_largest_pass() -> None:
    assert pass_shapes(10, 8) == [PassShape(10, 8, 3)]
    assert pass_shapes(40, 256) == [PassShape(16, 16, 4), PassShape(32, 32, 8), PassShape(40, 40, 10)]
    sizes = [shape.tokens for shape in pass_shapes(2048, 256)]
    assert sizes[-3:] == [1792, 1920, 2048]
    assert all(after <= 1.25 * before for before, after in pairwise(sizes) if before >= 128)
    assert pass_shapes(2048, 4096)[-1] == PassShape(2048, 512, 32)


def test_a_large_model_has_small_passes_only() -> None:
    assert most_pass_tokens(8192, 250_000_000) == 960  # of an 8B model
    assert most_pass_tokens(8192, 77_000_000) == 2048  # of a 1B model
    assert most_pass_tokens(8192, 0) == 2048
    assert most_pass_tokens(512, 0) == 512
    assert most_pass_tokens(8192, 10**12) == 64


@pytest.mark.parametrize("instruction_set", [None, "torch"])
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("max_step_tokens", [24, 200])
def test_replayed_passes_yield_the_tokens_of_eager_ones(
    directory: Path, eager_passes: list[int], max_step_tokens: int, overlap: bool, instruction_set: str | None
) -> None:
    """Prompts in chunks beside decodes, and all at once."""
    options = {"cpu_instruction_set": instruction_set, "max_step_tokens": max_step_tokens}
    expected, _ = serve(load_on_cpu(directory, **options), requests_with(PLAIN + SPECIAL), overlap=overlap)
    assert max(eager_passes) > 16
    eager_passes.clear()
    runner = load_on_cpu(directory, Recorder(), **options)
    for prefix_cache in (False, True):
        replayed, _ = serve(runner, requests_with(PLAIN + SPECIAL), prefix_cache, overlap)
        assert replayed == expected
    assert not eager_passes


def test_layers_that_see_unequally_far_are_given_their_own_blocks(
    tmp_path: Path, eager_passes: list[int]
) -> None:
    windows = {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 2}
    mixed = write_checkpoint(tmp_path / "mixed", "qwen2", **windows)
    expected, _ = serve(load_on_cpu(mixed, max_step_tokens=24), requests_with(PLAIN * 2))
    eager_passes.clear()
    runner = load_on_cpu(mixed, Recorder(), max_step_tokens=24)
    assert serve(runner, requests_with(PLAIN * 2), prefix_cache=True, overlap=True)[0] == expected
    assert not eager_passes


def test_what_fills_a_pass_up_writes_nothing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = poisoned_caches(monkeypatch)
    prompts = [[5, 6, 7], [8, 9], [10], [11, 12, 13, 14, 15]]
    generate(load_on_cpu(directory, Recorder()), prompts, 1)
    for tensor in caches:
        assert num_written(tensor) == sum(map(len, prompts))


def test_a_batch_that_no_shape_holds_is_computed_as_it_is(directory: Path, eager_passes: list[int]) -> None:
    prompts = [[3 + n, 4, 5] for n in range(6)]
    expected = generate(load_on_cpu(directory), prompts, 4)
    eager_passes.clear()
    runner = load_on_cpu(directory, Recorder(), max_step_tokens=20)  # which has places for five chunks
    assert generate(runner, prompts, 4) == expected
    assert eager_passes == [18]


def test_a_chunk_may_end_with_a_token_that_only_the_device_knows(directory: Path) -> None:
    prompt = [5, 6, 7, 8]
    (expected,) = generate(load_on_cpu(directory), [prompt], 3)
    runner = load_on_cpu(directory, Recorder())
    runner.launch(
        StepPlan(
            0,
            admitted=[Admission(0, GREEDY, prompt, [])],
            scheduled=[ScheduledTokens(0, 0, prompt, [[0]], True)],
        )
    )
    assert runner.collect().token_ids == expected[:1]
    runner.launch(StepPlan(1, scheduled=[ScheduledTokens(0, 2, [7, 8, PENDING], [], True)]))
    assert runner.collect().token_ids == expected[1:2]
    runner.launch(StepPlan(2, scheduled=[ScheduledTokens(0, 5, [PENDING], [], True)]))
    assert runner.collect().token_ids == expected[2:]


@pytest.mark.parametrize("failing", [1, 2, 3], ids=["forward", "logits", "sampling"])
def test_a_pass_that_failed_can_be_computed_again(directory: Path, failing: int) -> None:
    recorder = Recorder()
    runner = load_on_cpu(directory, recorder)
    prompt = [5, 6, 7]
    (expected,) = generate(load_on_cpu(directory), [prompt], 1)
    plan = StepPlan(
        0,
        admitted=[Admission(0, GREEDY, prompt, [])],
        scheduled=[ScheduledTokens(0, 0, prompt, [[0]], True)],
    )
    recorder.fails_at = recorder.num_replays + failing
    with pytest.raises(RuntimeError, match="an injected failure"):
        runner.launch(plan)
    runner.launch(StepPlan(1, scheduled=plan.scheduled, admitted=plan.admitted))
    assert runner.collect().token_ids == expected
