"""The real scheduler over the real runner, without a server around them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import torch

from tests.engine.driver import GREEDY
from tests.engine.grammars import Alternating
from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.kv_cache.host_tier import HostTier
from tokenwire_engine.kv_cache.prefix_cache import PrefixCache
from tokenwire_engine.runner.local import LocalRunner
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.outputs import Outputs
from tokenwire_engine.scheduler.plan import StepPlan
from tokenwire_engine.scheduler.request import Request
from tokenwire_engine.scheduler.scheduler import Scheduler, SchedulerLimits

MAX_TOKENS = 60
PLAIN = [
    GREEDY,
    SamplingParams(temperature=0.8),
    SamplingParams(temperature=1.2, top_k=40, top_p=0.9),
    SamplingParams(temperature=0.9, min_p=0.05),
]
"""What the sampling kernel does by itself."""


def serve(
    runner: LocalRunner, requests: list[Request], prefix_cache: bool = False, overlap: bool = False
) -> tuple[dict[str, list[int]], Scheduler]:
    """Run requests to their end; with `overlap`, each step is launched before the one before it completes."""
    info = runner.info
    pool = BlockPool(info.num_blocks, info.block_size)
    host = HostTier(info.num_host_blocks) if info.num_host_blocks else None
    scheduler = Scheduler(
        SchedulerLimits(8, info.max_step_tokens, info.max_model_len, windows=info.windows),
        pool,
        prefix_cache=PrefixCache(pool, info.windows, host) if prefix_cache else None,
    )
    everyone: list[Request] = []
    for request in requests:
        scheduler.submit(request)
        everyone += request.samples.members
    deque(run(scheduler, runner, overlap), maxlen=0)
    tokens: dict[str, list[int]] = {}
    for request in everyone:
        tokens.setdefault(request.request_id, []).extend(request.output_token_ids)
    return tokens, scheduler


def run(scheduler: Scheduler, runner: LocalRunner, overlap: bool) -> Iterator[Outputs]:
    """Run a scheduler's requests to their end, as the core does; what each step brings."""
    launched: deque[StepPlan] = deque()
    while scheduler.has_work or launched:
        plan = scheduler.plan()
        if plan is not None:
            runner.launch(plan)
            launched.append(plan)
            if plan.constrained and len(launched) == 1:
                runner.constrain(scheduler.masks())
        while len(launched) > (1 if overlap and plan is not None else 0):
            scheduler.complete(runner.collect())
            launched.popleft()
            if launched and launched[0].constrained:
                runner.constrain(scheduler.masks())
        yield scheduler.take_outputs()


def requests_with(sampling: list[SamplingParams], vocab_size: int = 0) -> list[Request]:
    """Requests with these parameters; of a vocabulary, those that every other one's output keeps to."""
    generator = torch.Generator().manual_seed(0)
    return [
        Request(
            str(index),
            torch.randint(3, 320, (5 + 9 * index,), generator=generator).tolist(),
            replace(params, seed=index),
            MAX_TOKENS,
            grammar=Alternating(vocab_size) if vocab_size and index % 2 == 0 else None,
        )
        for index, params in enumerate(sampling)
    ]
