"""Steps of decodes on rows that stay on the device: the same tokens as laying every batch out on the host.

Without a GPU nothing can be captured. What is tested here is all the rest: work that would be captured runs
again at every replay, on the same buffers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.checkpoints import write_checkpoint
from tests.engine.driver import GREEDY, generate
from tests.engine.grammars import alternates
from tests.engine.runner.loading import Recorder, load_on_cpu, num_written, poisoned_caches
from tests.engine.runner.serving import PLAIN, requests_with, serve
from tokenwire_engine.runner import forward_graphs, graphs
from tokenwire_engine.runner.forward_graphs import pass_shapes
from tokenwire_engine.runner.graphs import NotCapturableError, Replay, graph_sizes
from tokenwire_engine.runner.row_columns import RowColumns
from tokenwire_engine.runner.staging import Staging
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.plan import PENDING, Admission, ScheduledTokens, StepPlan
from tokenwire_engine.scheduler.request import Request

VOCAB_SIZE = 320
SPECIAL = [
    SamplingParams(temperature=0.0, repetition_penalty=1.3),
    SamplingParams(typical_p=0.7, bad_words=((5,), (9, 10)), num_logprobs=2),
    SamplingParams(allowed_token_ids=tuple(range(3, 60)), min_tokens=20, ending_token_ids=(7,)),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model")


def test_the_sizes_of_graphs_end_with_the_largest_batch() -> None:
    assert graph_sizes(1) == [1]
    assert graph_sizes(6) == [1, 2, 4, 6]
    assert graph_sizes(32) == [1, 2, 4, 8, 16, 24, 32]
    assert graph_sizes(100)[-5:] == [56, 64, 80, 96, 100]
    assert graph_sizes(320)[-4:] == [240, 256, 288, 320]
    assert graph_sizes(4096)[-2:] == [480, 512]


@pytest.mark.parametrize("instruction_set", [None, "torch"])
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("sampling", [PLAIN, PLAIN + SPECIAL], ids=["plain", "special"])
def test_replayed_steps_yield_the_tokens_of_eager_ones(
    directory: Path, sampling: list[SamplingParams], overlap: bool, instruction_set: str | None
) -> None:
    options = {"cpu_instruction_set": instruction_set, "max_step_tokens": 24}
    recorder = Recorder()
    expected, _ = serve(load_on_cpu(directory, **options), requests_with(sampling), overlap=overlap)
    runner = load_on_cpu(directory, recorder, **options)
    replayed, scheduler = serve(runner, requests_with(sampling), overlap=overlap)
    assert replayed == expected
    assert recorder.num_replays > scheduler.counters.steps / 2


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(
    "sampling", [PLAIN[:1] * 3, PLAIN, PLAIN + SPECIAL], ids=["greedy", "plain", "special"]
)
def test_replayed_steps_keep_to_the_masks_that_follow_them(
    directory: Path, sampling: list[SamplingParams], overlap: bool
) -> None:
    recorder = Recorder()
    requests = requests_with(sampling, VOCAB_SIZE)
    expected, _ = serve(load_on_cpu(directory), requests)
    assert all(alternates(expected[request.request_id]) for request in requests if request.grammar)
    replayed, scheduler = serve(
        load_on_cpu(directory, recorder), requests_with(sampling, VOCAB_SIZE), overlap=overlap
    )
    assert replayed == expected
    assert recorder.num_replays > scheduler.counters.steps / 2


def test_layers_that_see_unequally_far_have_rows_of_their_own(tmp_path: Path) -> None:
    windows = {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 2}
    mixed = write_checkpoint(tmp_path / "mixed", "qwen2", **windows)
    expected, _ = serve(load_on_cpu(mixed), requests_with(PLAIN * 2))
    recorder = Recorder()
    replayed, scheduler = serve(
        load_on_cpu(mixed, recorder), requests_with(PLAIN * 2), prefix_cache=True, overlap=True
    )
    assert replayed == expected
    assert recorder.num_replays > scheduler.counters.steps / 2


def test_preempted_and_resumed_requests_keep_their_tokens(directory: Path) -> None:
    options = {"kv_cache_memory": 16 * 16 * 768, "max_step_tokens": 24}
    expected, _ = serve(load_on_cpu(directory), requests_with(PLAIN * 2))
    runner = load_on_cpu(directory, Recorder(), **options)
    for prefix_cache in (False, True):
        replayed, scheduler = serve(runner, requests_with(PLAIN * 2), prefix_cache, overlap=True)
        assert scheduler.counters.preemptions > 0
        assert replayed == expected


def test_layers_that_see_unequally_far_have_rows_of_their_own_tables(tmp_path: Path) -> None:
    directory = write_checkpoint(
        tmp_path / "model", "qwen2", use_sliding_window=True, sliding_window=20, max_window_layers=1
    )
    expected, _ = serve(load_on_cpu(directory), requests_with(PLAIN))
    runner = load_on_cpu(directory, Recorder())
    assert runner.info.windows == (0, 20, 20)
    replayed, _ = serve(runner, requests_with(PLAIN), prefix_cache=True, overlap=True)
    assert replayed == expected


def test_requests_that_come_and_go_share_the_rows(directory: Path) -> None:
    """More requests than slots, of different lengths: rows are taken over by others in every few steps."""
    generator = torch.Generator().manual_seed(3)

    def requests() -> list[Request]:
        return [
            Request(
                str(n),
                torch.randint(3, 320, (1 + n % 5,), generator=generator.manual_seed(n)).tolist(),
                replace(PLAIN[n % 4], seed=n),
                3 + 7 * n % 31,
            )
            for n in range(30)
        ]

    expected, _ = serve(load_on_cpu(directory), requests())
    for overlap in (False, True):
        assert serve(load_on_cpu(directory, Recorder()), requests(), True, overlap)[0] == expected


def test_rows_that_fill_a_graph_up_write_nothing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = poisoned_caches(monkeypatch)
    prompts = [[5, 6, 7], [8], [9, 10], [11], [12]]  # with 3 rows of the graph for 8 to spare
    generate(load_on_cpu(directory, Recorder(), max_running=32), prompts, 20)
    for tensor in caches:
        assert num_written(tensor) == sum(len(prompt) + 19 for prompt in prompts)


def test_a_steady_step_sends_nothing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = load_on_cpu(directory, Recorder())
    prompts = {0: [5, 6, 7], 1: [8, 9]}
    runner.launch(
        StepPlan(
            0,
            admitted=[Admission(slot, GREEDY, prompt, []) for slot, prompt in prompts.items()],
            scheduled=[ScheduledTokens(slot, 0, prompt, [[slot]], True) for slot, prompt in prompts.items()],
        )
    )
    sends: list[int] = []
    staged, written = Staging.send, RowColumns.write
    step = -1
    monkeypatch.setattr(Staging, "send", lambda *given: sends.append(step) or staged(*given))
    monkeypatch.setattr(RowColumns, "write", lambda *given: sends.append(step) or written(*given))
    for step in range(6):
        plan = [ScheduledTokens(slot, len(p) + step, [PENDING], [], True) for slot, p in prompts.items()]
        runner.launch(StepPlan(step, scheduled=plan))
        runner.collect()
    assert sends == [0]  # the rows, once


def test_what_cannot_be_captured_is_computed_eagerly_and_one_line_says_so(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(work: Callable[[], None]) -> Replay:
        work()
        raise NotCapturableError("the reference computes paged_attention")

    expected, _ = serve(load_on_cpu(directory, cpu_instruction_set="torch"), requests_with(PLAIN))
    runner = load_on_cpu(directory, refuse, cpu_instruction_set="torch")
    assert not runner.replays
    assert serve(runner, requests_with(PLAIN))[0] == expected
    assert caplog.messages == [
        "steps are not captured as CUDA graphs, which makes them slower: "
        "the reference computes paged_attention"
    ]


def test_batches_larger_than_the_largest_graph_are_computed_eagerly(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "LARGEST", 3)
    monkeypatch.setattr(forward_graphs, "LARGEST", 3)
    prompts = [[3 + n, 4, 5] for n in range(5)]
    recorder = Recorder()
    runner = load_on_cpu(directory, recorder)
    expected = generate(load_on_cpu(directory), prompts, 10)
    assert generate(runner, prompts, 10) == expected
    assert recorder.num_replays == 0
    assert generate(runner, prompts[:3], 10) == expected[:3]
    assert recorder.num_replays > 0


@pytest.mark.parametrize("failing", [1, 2], ids=["forward", "sampling"])
def test_a_step_that_failed_can_be_computed_again(directory: Path, failing: int) -> None:
    recorder = Recorder()
    runner = load_on_cpu(directory, recorder)
    prompt = [5, 6, 7]
    (expected,) = generate(load_on_cpu(directory), [prompt], 6)
    runner.launch(
        StepPlan(
            0,
            admitted=[Admission(0, GREEDY, prompt, [])],
            scheduled=[ScheduledTokens(0, 0, prompt, [[0]], True)],
        )
    )
    tokens = runner.collect().token_ids
    recorder.fails_at = recorder.num_replays + 2 + failing
    for step in range(1, 6):
        plan = StepPlan(step, scheduled=[ScheduledTokens(0, 2 + step, tokens[-1:], [], True)])
        if step == 2:
            with pytest.raises(RuntimeError, match="an injected failure"):
                runner.launch(plan)
        runner.launch(plan)
        tokens += runner.collect().token_ids
    assert tokens == expected


def test_graphs_are_captured_unless_told_otherwise(directory: Path) -> None:
    recorder = Recorder()
    load_on_cpu(directory, recorder)
    assert recorder.num_captured == 5 * len(graph_sizes(8)) + len(pass_shapes(512, 8))
    recorder = Recorder()
    load_on_cpu(directory, recorder, cuda_graphs=False)
    assert recorder.num_captured == 0
