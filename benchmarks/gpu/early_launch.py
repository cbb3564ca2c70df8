"""Steps whose kernels begin before those ahead of them have ended, beside steps whose kernels wait.

It has a section, and so a process, of its own: an option that is off must not take other measurements with
it. Both ways must choose the same tokens.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.gpu.decode import MOST_STEPS, ROUNDS, STEPS
from benchmarks.gpu.findings import Findings
from benchmarks.gpu.models import BLOCK_SIZE, RandomModel, random_model
from benchmarks.gpu.section import Context, SkippedError
from benchmarks.gpu.steps import Decoding
from tokenwire_kernels import LayerCache
from tokenwire_kernels.triton.target import launch_dependents

MODELS = ("Llama-3.2-1B", "Llama-3.1-8B")
SEQUENCES = (4, 8)
"""More than have their layers in one launch."""
CONTEXT = 1024
CAPABILITY = (9, 0)
"""The first GPUs that can."""


def measure(context: Context, findings: Findings) -> None:
    """Two models with a few sequences, which idle most between kernels."""
    device = context.device
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < CAPABILITY:
        raise SkippedError("kernels can begin early from compute capability 9.0 on")
    findings.table("Early launch", "model", "sequences", "ms a step", "ms a step, early", "same tokens")
    for name in ("tiny",) if context.quick else MODELS:
        if context.has_time(8.0, findings, name):
            _measure_model(context, findings, name)


def _measure_model(context: Context, findings: Findings, name: str) -> None:
    past = 32 if context.quick else CONTEXT
    model = random_model(name, context.device, past + MOST_STEPS)
    caches = model.allocate(max(SEQUENCES) * -(-(past + MOST_STEPS) // BLOCK_SIZE))
    waiting = _steps(model, caches, past)
    with _launching_early():
        early = _steps(model, caches, past)
    for num_seqs, before, after in zip(SEQUENCES, waiting, early, strict=True):
        same = "yes" if before[1] == after[1] else "no"
        findings.row(name, num_seqs, 1000 * before[0], 1000 * after[0], same)
    caches.clear()
    if context.device.type == "cuda":
        torch.cuda.empty_cache()


def _steps(model: RandomModel, caches: list[LayerCache], past: int) -> list[tuple[float, list[list[int]]]]:
    """Seconds a step, and the tokens, of each number of sequences."""
    runner = model.runner(caches, max(SEQUENCES), model.capture())
    found = []
    for num_seqs in SEQUENCES:
        decoding = Decoding(runner, num_seqs, past, MOST_STEPS)
        decoding.run(3)
        seconds = statistics.median(decoding.run(STEPS) / STEPS for _ in range(ROUNDS))
        found.append((seconds, decoding.tokens))
        decoding.close()
    runner.close()
    return found


@contextmanager
def _launching_early() -> Iterator[None]:
    """While graphs are captured."""
    launch_dependents()
    try:
        yield
    finally:
        launch_dependents(False)
