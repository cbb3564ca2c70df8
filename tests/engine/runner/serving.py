"""The real scheduler over the real runner, without a server around them."""

from __future__ import annotations

from dataclasses import replace

import torch

from tests.engine.driver import GREEDY
from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.kv_cache.host_tier import HostTier
from tokenwire_engine.kv_cache.prefix_cache import PrefixCache
from tokenwire_engine.runner.local import LocalRunner
from tokenwire_engine.sampling.params import SamplingParams
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
    launched = 0
    while scheduler.has_work:
        plan = scheduler.plan()
        if plan is not None:
            runner.launch(plan)
            launched += 1
        while launched > (1 if overlap and plan is not None else 0):
            scheduler.complete(runner.collect())
            launched -= 1
        scheduler.take_outputs()
    tokens: dict[str, list[int]] = {}
    for request in everyone:
        tokens.setdefault(request.request_id, []).extend(request.output_token_ids)
    return tokens, scheduler


def requests_with(sampling: list[SamplingParams]) -> list[Request]:
    generator = torch.Generator().manual_seed(0)
    return [
        Request(
            str(index),
            torch.randint(3, 320, (5 + 9 * index,), generator=generator).tolist(),
            replace(params, seed=index),
            MAX_TOKENS,
        )
        for index, params in enumerate(sampling)
    ]
