"""How long a step of decodes takes, what share of the bandwidth that is, and how long the device idles.

A step reads the weights once, and each sequence's keys and values: those bytes over its time, as a fraction
of the measured read bandwidth, is how near it comes to the best that is possible.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks.gpu.findings import Findings
from benchmarks.gpu.models import BLOCK_SIZE, RandomModel, free_bytes, random_model, takes_fp8
from benchmarks.gpu.section import Context
from benchmarks.gpu.steps import Decoding
from tokenwire_kernels import LayerCache

ROUNDS = 3
STEPS = 20
"""In each round."""
PROFILED_STEPS = 8
MOST_STEPS = (ROUNDS + 1) * STEPS + 4 * PROFILED_STEPS
"""What a sequence grows by at most."""
MODELS = ("Llama-3.1-8B", "Llama-3.2-1B", "Qwen3-0.6B", "Qwen3-8B")
SEQUENCES = (1, 8, 32, 128, 256)
CONTEXTS = (1024, 8192)
FP8_MODEL = "Llama-3.1-8B"
FP8_POINTS = ((256, 1024), (32, 8192))
"""Sequences and context that a cache of fp8 is measured with."""
CACHE_SHARE = 0.8
"""Of the memory that the weights leave."""


def measure(context: Context, findings: Findings) -> None:
    """Every model with every batch that fits."""
    findings.table(
        "Decode", "model", "KV cache", "sequences", "context", "graphs", "ms a step", "tokens/s", "GB/s",
        "% of read", "device idle, %",
    )  # fmt: skip
    models = ("tiny",) if context.quick else MODELS
    for name in models:
        if context.has_time(15.0, findings, name):
            _measure_model(context, findings, name)
    name = "tiny" if context.quick else FP8_MODEL
    if takes_fp8(context.device) and context.has_time(12.0, findings, f"{name}, fp8 cache"):
        _measure_fp8(context, findings, name)


def _measure_model(context: Context, findings: Findings, name: str) -> None:
    sequences, contexts = ((1, 3), (32,)) if context.quick else (SEQUENCES, CONTEXTS)
    points = [(num_seqs, past) for past in contexts for num_seqs in sequences]
    model = random_model(name, context.device, max(contexts) + MOST_STEPS)
    caches = _allocate(context, findings, model, points)
    for graphs in ("on", "off"):
        few = [(num_seqs, contexts[0]) for num_seqs in sequences[:3:2]]  # enough to show what they are worth
        _measure_points(context, findings, model, caches, points if graphs == "on" else few, graphs)
    _release(caches)


def _measure_fp8(context: Context, findings: Findings, name: str) -> None:
    points = [(3, 32)] if context.quick else list(FP8_POINTS)
    longest = max(past for _, past in points)
    model = random_model(name, context.device, longest + MOST_STEPS)
    model = replace(model, cache_dtype=torch.float8_e4m3fn)
    caches = _allocate(context, findings, model, points)
    _measure_points(context, findings, model, caches, points, "on")
    _release(caches)


def _allocate(
    context: Context, findings: Findings, model: RandomModel, points: list[tuple[int, int]]
) -> list[LayerCache]:
    """A cache for the largest of the points that fits; those that do not are taken out."""
    room = int(CACHE_SHARE * free_bytes(context.device)) // (model.token_cache_bytes * BLOCK_SIZE)
    for point in [point for point in points if _blocks(*point) > room]:
        points.remove(point)
        findings.note(f"{_named(model, *point)} was left out: its KV cache does not fit")
    return model.allocate(max(_blocks(*point) for point in points))


def _blocks(num_seqs: int, past: int) -> int:
    return num_seqs * -(-(past + MOST_STEPS) // BLOCK_SIZE)


def _named(model: RandomModel, num_seqs: int, past: int) -> str:
    return f"{model.name}, {num_seqs} x {past}, {model.cache_format} cache"


def _measure_points(
    context: Context,
    findings: Findings,
    model: RandomModel,
    caches: list[LayerCache],
    points: list[tuple[int, int]],
    graphs: str,
) -> None:
    """Steps of one runner, whose graphs are `on` or `off`."""
    rows = max(num_seqs for num_seqs, _ in points)
    runner = model.runner(caches, rows, model.capture() if graphs == "on" else None)
    if graphs == "on" and not runner.replays:
        findings.note(f"{model.name}: no graphs could be captured; what follows was computed eagerly")
    if missing := model.kernels.fallen_back:
        findings.note(
            f"{model.name}, {model.cache_format} cache, was left out: {', '.join(missing)} did not compile, "
            "and the reference would take the section's time"
        )
        points = []
    for num_seqs, past in points:
        if context.has_time(4.0, findings, _named(model, num_seqs, past)):
            decoding = Decoding(runner, num_seqs, past, MOST_STEPS)
            _measure_point(context, findings, model, decoding, num_seqs, past, graphs)
            decoding.close()
    runner.close()


def _measure_point(
    context: Context,
    findings: Findings,
    model: RandomModel,
    decoding: Decoding,
    num_seqs: int,
    past: int,
    graphs: str,
) -> None:
    decoding.run(3)
    seconds = statistics.median(decoding.run(STEPS) / STEPS for _ in range(ROUNDS))
    read = model.step_weight_bytes + num_seqs * past * model.token_cache_bytes
    findings.row(
        model.name,
        model.cache_format,
        num_seqs,
        past,
        graphs,
        1000 * seconds,
        num_seqs / seconds,
        read / seconds / 1e9,
        context.share("read", read / seconds),
        _idle_percent(context, decoding),
    )


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
