"""A prompt's log-probabilities are transformers' own, in whatever pieces the prompt is computed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.checkpoints import write_checkpoint
from tests.engine.driver import GREEDY
from tests.engine.runner.loading import Recorder, load_on_cpu
from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.sampling.logprobs import Logprobs
from tokenwire_engine.scheduler.request import Request
from tokenwire_engine.scheduler.scheduler import Scheduler, SchedulerLimits

LENGTHS = (1, 2, 17, 90, 40, 33)
NUM_TOP = 3


def prompt_logprobs(
    directory: Path, step_tokens: int, num_blocks: int, max_tokens: int, replays: bool
) -> tuple[list[Logprobs], int]:
    """Those of prompts that run together, as they were delivered, and how often one was preempted. Every
    second request asks for none."""
    runner = load_on_cpu(
        directory,
        Recorder() if replays else None,
        max_step_tokens=step_tokens,
        kv_cache_memory=num_blocks * 16 * 768,
    )
    scheduler = Scheduler(SchedulerLimits(8, step_tokens, 256), BlockPool(num_blocks, 16))
    for index, prompt in enumerate(prompts()):
        scheduler.submit(
            Request(str(index), prompt, GREEDY, max_tokens, label=2 * index, num_prompt_logprobs=NUM_TOP)
        )
        scheduler.submit(Request(f"plain-{index}", prompt, GREEDY, max_tokens, label=2 * index + 1))
    found = [Logprobs(NUM_TOP) for _ in LENGTHS]
    tokens: dict[int, list[int]] = {}
    while scheduler.has_work:
        plan = scheduler.plan()
        assert plan is not None
        runner.launch(plan)
        scheduler.complete(runner.collect())
        for output in scheduler.take_outputs().values():
            for label, logprobs in output.prompt_logprobs:
                found[label // 2].extend(logprobs)
                assert label not in tokens
            for label, token in zip(output.labels, output.token_ids, strict=True):
                tokens.setdefault(label, []).append(token)
    assert all(tokens[2 * index] == tokens[2 * index + 1] for index in range(len(LENGTHS)))
    return found, scheduler.counters.preemptions


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 320, (length,), generator=generator).tolist() for length in LENGTHS]


@pytest.mark.parametrize("replays", [False, True])
@pytest.mark.parametrize(
    ("step_tokens", "num_blocks", "max_tokens"),
    [(512, 64, 2), (13, 64, 2), (24, 16, 40)],
    ids=["whole", "in chunks", "in chunks, preempted"],
)
def test_prompt_logprobs_are_those_of_transformers(
    tmp_path: Path, step_tokens: int, num_blocks: int, max_tokens: int, replays: bool
) -> None:
    directory = write_checkpoint(tmp_path / "model")
    found, preemptions = prompt_logprobs(directory, step_tokens, num_blocks, max_tokens, replays)
    assert (preemptions > 0) == (num_blocks < 64)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    for prompt, logprobs in zip(prompts(), found, strict=True):
        with torch.no_grad():
            exact = model(torch.tensor([prompt])).logits[0, :-1].double().log_softmax(dim=1)
        targets = torch.tensor(prompt[1:], dtype=torch.int64)
        expected = exact[torch.arange(len(targets)), targets]
        torch.testing.assert_close(
            torch.tensor(logprobs.token_logprobs).double(), expected, rtol=1e-3, atol=1e-3
        )
        assert logprobs.top_token_ids == exact.topk(NUM_TOP, dim=1).indices.flatten().tolist()
