"""A model whose lower layers see all and whose upper ones a window, with the real scheduler and runner."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.checkpoints import write_checkpoint
from tests.engine.driver import GREEDY
from tests.engine.runner.loading import load_on_cpu
from tests.engine.runner.oracle import transformers_tokens
from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.kv_cache.prefix_cache import PrefixCache
from tokenwire_engine.runner.local import LocalRunner
from tokenwire_engine.scheduler.request import Request
from tokenwire_engine.scheduler.scheduler import Scheduler, SchedulerLimits

WINDOW, STEP_TOKENS, BLOCK_SIZE = 20, 32, 16
NUM_TOKENS = 400


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(
        tmp_path_factory.mktemp("mixed") / "model",
        "qwen2",
        num_hidden_layers=4,
        max_position_embeddings=512,
        use_sliding_window=True,
        sliding_window=WINDOW,
        max_window_layers=2,
    )


@pytest.fixture(scope="module", params=[None, "torch"])
def runner(request: pytest.FixtureRequest, directory: Path) -> LocalRunner:
    options = {"cpu_instruction_set": request.param, "max_running": 4, "max_step_tokens": STEP_TOKENS}
    return load_on_cpu(directory, **options)


def test_a_long_generation_is_transformers_own_and_holds_a_windows_worth_in_the_windowed_layers(
    directory: Path, runner: LocalRunner
) -> None:
    prompt = torch.randint(3, 320, (90,), generator=torch.Generator().manual_seed(4)).tolist()
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    expected = transformers_tokens(model, prompt, NUM_TOKENS)

    info = runner.info
    assert info.windows == (0, WINDOW)
    pool = BlockPool(info.num_blocks, BLOCK_SIZE)
    limits = SchedulerLimits(4, STEP_TOKENS, info.max_model_len, windows=info.windows)
    scheduler = Scheduler(limits, pool, prefix_cache=PrefixCache(pool, info.windows))
    for turn in range(2):  # the second time, the prompt is found computed
        request = Request(str(turn), prompt, GREEDY, NUM_TOKENS)
        scheduler.submit(request)
        most_held = 0
        while (plan := scheduler.plan()) is not None:
            runner.launch(plan)
            full, windowed = request.tables
            assert len(full.held) == len(full.blocks) >= len(windowed.blocks)
            most_held = max(most_held, len(windowed.held))
            scheduler.complete(runner.collect())
        assert request.output_token_ids == expected
        # What a chunk of the prompt and the window before it lie in at most.
        assert most_held <= (WINDOW - 1 + STEP_TOKENS) // BLOCK_SIZE + 2
        assert request.cached_prompt_tokens == (80 if turn else 0)
        assert pool.num_free == pool.num_blocks
