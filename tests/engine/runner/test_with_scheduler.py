"""The real scheduler and the real runner: neither preemption, company nor what others computed before changes
a request's tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import write_checkpoint
from tests.engine.driver import GREEDY
from tests.engine.runner.loading import load_on_cpu
from tests.engine.runner.serving import MAX_TOKENS, requests_with, serve
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.request import Request

NUM_BLOCKS = 16
"""256 tokens: one full context, and far less than the requests below come to need together."""


@pytest.mark.parametrize(("dtype", "token_bytes"), [("float32", 768), ("bfloat16", 384)])
def test_requests_that_preempt_each_other_get_the_tokens_that_they_get_alone(
    tmp_path: Path, dtype: str, token_bytes: int
) -> None:
    directory = write_checkpoint(tmp_path / "model")
    cache = NUM_BLOCKS * 16 * token_bytes
    runner = load_on_cpu(directory, dtype=dtype, max_step_tokens=24, kv_cache_memory=cache)
    sampling = [
        GREEDY,
        SamplingParams(temperature=0.8),
        SamplingParams(temperature=0.0, repetition_penalty=1.3),
        SamplingParams(temperature=1.2, top_k=40, top_p=0.9),
        SamplingParams(temperature=0.7, presence_penalty=0.6, frequency_penalty=0.4),
        SamplingParams(min_p=0.05, logit_bias={9: 3.0, 11: -3.0}),
        SamplingParams(typical_p=0.7, bad_words=((5,), (9, 10), (17, 4, 8)), num_logprobs=2),
        SamplingParams(allowed_token_ids=tuple(range(3, 60)), min_tokens=40, ending_token_ids=(7,)),
    ]
    together, scheduler = serve(runner, requests_with(sampling))
    assert scheduler.counters.preemptions > 0
    assert scheduler.pool.num_free == NUM_BLOCKS
    resumed, scheduler = serve(runner, requests_with(sampling), prefix_cache=True)
    assert scheduler.counters.preemptions > 0
    assert scheduler.counters.prefix_hit_tokens > 0
    assert scheduler.pool.num_free == NUM_BLOCKS
    assert resumed == together
    ahead, scheduler = serve(runner, requests_with(sampling), prefix_cache=True, overlap=True)
    assert scheduler.counters.preemptions > 0
    assert scheduler.pool.num_free == NUM_BLOCKS
    assert ahead == together
    alone: dict[str, list[int]] = {}
    for request in requests_with(sampling):
        alone |= serve(runner, [request])[0]
    assert together == alone
    assert {len(tokens) for tokens in together.values()} == {MAX_TOKENS}


WINDOWS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 24},
    "qwen2": {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 2},
}
"""Families whose layers all see everything, or a window, or some the one and some the other."""


@pytest.mark.parametrize("family", WINDOWS)
@pytest.mark.parametrize("host_blocks", [0, 40])
def test_a_pool_too_small_for_the_load_gives_the_tokens_of_one_that_is_not(
    tmp_path: Path, family: str, host_blocks: int
) -> None:
    directory = write_checkpoint(tmp_path / "model", family, **WINDOWS[family])
    options = {"max_step_tokens": 40, "host_cache_memory": host_blocks * 16 * 768 or None}
    common = torch.randint(3, 320, (50,), generator=torch.Generator().manual_seed(1)).tolist()

    def requests() -> list[Request]:
        return [Request(str(n), common[: 40 + n] + [n] * n, replace(GREEDY, seed=n), 70) for n in range(8)]

    expected, scheduler = serve(load_on_cpu(directory, **options), requests())
    assert scheduler.counters.preemptions == 0
    small = load_on_cpu(directory, kv_cache_memory=NUM_BLOCKS * 16 * 768, **options)
    assert small.info.num_host_blocks == host_blocks * len(small.info.windows)
    squeezed, scheduler = serve(small, [*requests(), Request("late", common, GREEDY, 70)], True, overlap=True)
    assert {n: squeezed[n] for n in expected} == expected
    assert scheduler.counters.preemptions > 0 or family == "mistral"  # whose windows nearly all fit
    assert (scheduler.counters.host_hit_blocks > 0) == (host_blocks > 0)


@pytest.mark.parametrize("family", WINDOWS)
def test_a_shared_beginning_gives_the_tokens_that_computing_it_again_gives(
    tmp_path: Path, family: str
) -> None:
    directory = write_checkpoint(tmp_path / "model", family, **WINDOWS[family])
    runner = load_on_cpu(directory, max_step_tokens=40)
    common = torch.randint(3, 320, (83,), generator=torch.Generator().manual_seed(1)).tolist()

    def requests() -> list[Request]:
        return [
            Request(str(index), [*common, *range(3, 3 + index)], replace(GREEDY, seed=index), 12)
            for index in range(6)
        ]

    shared, scheduler = serve(runner, requests(), prefix_cache=True)
    assert scheduler.counters.prefix_hit_tokens > 0
    computed, scheduler = serve(runner, requests())
    assert scheduler.counters.prefix_hit_tokens == 0
    assert shared == computed


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_samples_that_share_a_prompt_get_the_tokens_that_each_gets_by_itself(
    tmp_path: Path, prefix_cache: bool
) -> None:
    directory = write_checkpoint(tmp_path / "model")
    runner = load_on_cpu(directory)
    prompt = torch.randint(3, 320, (45,), generator=torch.Generator().manual_seed(2)).tolist()
    params = SamplingParams(temperature=0.9, seed=5, presence_penalty=0.5)
    samples = Request("all", prompt, params, 30, num_samples=4)
    together, _ = serve(runner, [samples], prefix_cache, overlap=True)
    alone: list[int] = []
    for index in range(4):
        request = Request("alone", prompt, replace(params, sample_index=index), 30)
        alone += serve(runner, [request])[0]["alone"]
    assert together["all"] == alone
