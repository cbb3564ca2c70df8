"""How long a step of decodes takes, what share of the bandwidth that is, and how long the device idles.

A step reads the weights once, and each sequence's keys and values: those bytes over its time, as a fraction
of the measured read bandwidth, is how near it comes to the best that is possible.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from benchmarks.gpu.findings import Findings
from benchmarks.gpu.models import BLOCK_SIZE, RandomModel, free_bytes, random_model
from benchmarks.gpu.section import Context
from benchmarks.gpu.steps import Decoding
from tokenwire_kernels import LayerCache

ROUNDS = 3
STEPS = 20
"""In each round."""
PROFILED_STEPS = 8
MODELS = ("Llama-3.1-8B", "Llama-3.2-1B", "Qwen3-0.6B", "Qwen3-8B")
SEQUENCES = (1, 8, 32, 128, 256)
CONTEXTS = (1024, 8192)
CACHE_SHARE = 0.8
"""Of the memory that the weights leave."""


def measure(context: Context, findings: Findings) -> None:
    """Every model with every batch that fits."""
    findings.table(
        "Decode", "model", "sequences", "context", "graphs", "ms a step", "tokens/s", "GB/s", "% of read",
        "device idle, %",
    )  # fmt: skip
    models = ("tiny",) if context.quick else MODELS
    for name in models:
        if context.has_time(15.0, findings, name):
            _measure_model(context, findings, name)


def _measure_model(context: Context, findings: Findings, name: str) -> None:
    sequences, contexts = ((1, 3), (32,)) if context.quick else (SEQUENCES, CONTEXTS)
    most_steps = (ROUNDS + 1) * STEPS + 4 * PROFILED_STEPS
    model = random_model(name, context.device, max(contexts) + most_steps)
    block_bytes = model.token_cache_bytes * BLOCK_SIZE
    room = int(CACHE_SHARE * free_bytes(context.device)) // block_bytes
    needed = {(n, c): n * -(-(c + most_steps) // BLOCK_SIZE) for c in contexts for n in sequences}
    fitting = {point: blocks for point, blocks in needed.items() if blocks <= room}
    caches = model.allocate(max(fitting.values()))
    for variant in ("on", "on, early launch", "off") if context.device.type == "cuda" else ("on", "off"):
        few = sequences[:3:2]  # two points show what graphs, and launching kernels early, are worth
        rows = max(sequences if variant == "on" else few)
        with _launching_early(variant):
            runner = model.runner(caches, rows, model.capture() if variant != "off" else None)
        if variant != "off" and not runner.replays:
            findings.note(f"{name}: no graphs could be captured; what follows was computed eagerly")
        for num_seqs, past in needed:
            point = f"{name}, {num_seqs} x {past}"
            if variant != "on" and (past != contexts[0] or num_seqs not in few):
                continue
            if (num_seqs, past) not in fitting:
                findings.note(f"{point} was left out: its KV cache does not fit")
            elif context.has_time(4.0, findings, point):
                decoding = Decoding(runner, num_seqs, past, most_steps)
                _measure_point(context, findings, model, decoding, num_seqs, past, variant)
                decoding.close()
        runner.close()
    if missing := model.kernels.fallen_back:
        findings.note(f"{name}: the reference computed {', '.join(missing)}, whose kernels did not compile")
    _release(caches)


def _measure_point(
    context: Context,
    findings: Findings,
    model: RandomModel,
    decoding: Decoding,
    num_seqs: int,
    past: int,
    variant: str,
) -> None:
    decoding.run(3)
    seconds = statistics.median(decoding.run(STEPS) / STEPS for _ in range(ROUNDS))
    read = model.step_weight_bytes + num_seqs * past * model.token_cache_bytes
    findings.row(
        model.name,
        num_seqs,
        past,
        variant,
        1000 * seconds,
        num_seqs / seconds,
        read / seconds / 1e9,
        context.share("read", read / seconds),
        _idle_percent(context, decoding),
    )


@contextmanager
def _launching_early(variant: str) -> Iterator[None]:
    """While graphs are captured: whether a kernel begins before the one ahead of it has ended."""
    if "early" not in variant:
        yield
        return
    from tokenwire_kernels.triton.target import launch_dependents

    launch_dependents()
    try:
        yield
    finally:
        launch_dependents(False)


def _idle_percent(context: Context, decoding: Decoding) -> float | None:
    """The share of some steps in which no kernel runs, from the profiler's records of each; the profiler
    slows the host down, so that this is rather too high."""
    if context.device.type != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        decoding.run(PROFILED_STEPS)
        torch.cuda.synchronize()
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type.name == "CUDA"
    ]
    return 100 * idle_share(spans) if spans else None


def idle_share(spans: Sequence[tuple[float, float]]) -> float:
    """The part of the time from the first beginning to the last end that no span covers."""
    ordered = sorted(spans)
    begin, reached = ordered[0]
    idle = 0.0
    for start, end in ordered:
        idle += max(0.0, start - reached)
        reached = max(reached, end)
    return idle / (reached - begin) if reached > begin else 0.0


def _release(caches: list[LayerCache]) -> None:
    caches.clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
