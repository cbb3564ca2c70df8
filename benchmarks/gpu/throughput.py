"""Batched throughput: the real scheduler and runner on a fixed table of requests, without any server.

Requests all come at once; each ends at its length. What is counted is tokens of output, from the first step
to the last.
"""

from __future__ import annotations

import time

import torch

from benchmarks.gpu.findings import Findings
from benchmarks.gpu.lengths import MOST, request_lengths
from benchmarks.gpu.models import BLOCK_SIZE, free_bytes, random_model
from benchmarks.gpu.section import Context
from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.runner.local import LocalRunner
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.request import Request
from tokenwire_engine.scheduler.scheduler import Scheduler, SchedulerLimits

CACHE_SHARE = 0.8
RESERVE_S = 2.0
"""Of the section's time, what is kept for writing down what was found."""
MODELS = ("Llama-3.1-8B", "Llama-3.2-1B")


def measure(context: Context, findings: Findings) -> None:
    """Two models, with as many requests at a time as the engine takes by default, and twice as many."""
    findings.table(
        "Throughput", "model", "at a time", "requests", "prompt tokens", "output tokens", "s", "output tok/s",
        "steps",
    )  # fmt: skip
    for name in ("tiny",) if context.quick else MODELS:
        if not context.has_time(10.0, findings, name):
            continue
        model = random_model(name, context.device, 2 * MOST)
        room = int(CACHE_SHARE * free_bytes(context.device)) // (model.token_cache_bytes * BLOCK_SIZE)
        caches = model.allocate(min(room, 2 * 512 * MOST // BLOCK_SIZE))
        needed_s = 10.0
        for at_a_time in (3,) if context.quick else (256, 512):
            if context.has_time(needed_s, findings, f"{name}, {at_a_time} at a time"):
                runner = model.runner(caches, at_a_time, model.capture())
                runner.warm_up()
                seconds = _measure(context, findings, runner, name, at_a_time)
                runner.close()
                # Twice as many requests at a time are twice as many in all; and the next model has its turn.
                needed_s = 2 * seconds + (20.0 if name == MODELS[0] else 5.0)
        caches.clear()
        del model
        if context.device.type == "cuda":
            torch.cuda.empty_cache()


def _measure(context: Context, findings: Findings, runner: LocalRunner, name: str, at_a_time: int) -> float:
    """Seconds that it took. It ends early when the section's time does; what was generated counts."""
    lengths = request_lengths(8 if context.quick else 3 * at_a_time)
    if context.quick:
        lengths = [(prompt % 20 + 1, output % 12 + 1) for prompt, output in lengths]
    limits = SchedulerLimits(at_a_time, runner.info.max_step_tokens, runner.info.max_model_len)
    scheduler = Scheduler(limits, BlockPool(runner.info.num_blocks, BLOCK_SIZE))
    for index, (prompt, output) in enumerate(lengths):
        tokens = [(7 * index + 13 * place) % runner.info.vocab_size for place in range(prompt)]
        sampling = SamplingParams(temperature=0.7, top_p=0.9, seed=index)
        scheduler.submit(Request(str(index), tokens, sampling, output))
    begin, launched = time.perf_counter(), 0
    while scheduler.has_work and context.left_s > RESERVE_S:
        plan = scheduler.plan()
        if plan is not None:
            runner.launch(plan)
            launched += 1
        while launched > (0 if plan is None else 1):
            scheduler.complete(runner.collect())
            launched -= 1
        scheduler.take_outputs()
    while launched:
        scheduler.complete(runner.collect())
        launched -= 1
    seconds = time.perf_counter() - begin
    if scheduler.has_work:
        findings.note(f"{name}, {at_a_time} at a time, was ended early: not all requests are done")
    outputs = scheduler.counters.generated_tokens
    findings.row(
        name,
        at_a_time,
        len(lengths),
        sum(prompt for prompt, _ in lengths),
        outputs,
        seconds,
        outputs / seconds,
        scheduler.counters.steps,
    )
    return seconds
