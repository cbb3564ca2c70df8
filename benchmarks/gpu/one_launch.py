"""Steps of few decodes whose layers are one launch, beside steps whose layers are computed by operators.

It has a section, and so a process, of its own. The next tokens of random weights are so close that both ways
need not choose the same.
"""

from __future__ import annotations

import statistics

import torch

from benchmarks.gpu.decode import MODELS, MOST_STEPS, ROUNDS, STEPS
from benchmarks.gpu.findings import Findings
from benchmarks.gpu.models import BLOCK_SIZE, RandomModel, random_model
from benchmarks.gpu.section import Context, SkippedError
from benchmarks.gpu.steps import Decoding
from tokenwire_kernels.cuda.layers import CAPABILITY, MOST_ROWS

POINTS = ((1, 1024), (MOST_ROWS, 1024), (1, 8192))
"""Sequences and their context."""


def measure(context: Context, findings: Findings) -> None:
    """Every model in both ways."""
    device = context.device
    if device.type == "cuda" and 10 * torch.cuda.get_device_capability(device)[0] < CAPABILITY:
        raise SkippedError(f"layers are one launch from compute capability {CAPABILITY / 10} on")
    columns = (
        "ms a step, operators",
        "ms a step, one launch",
        "% of read, operators",
        "% of read, one launch",
    )
    findings.table("Layers in one launch", "model", "sequences", "context", *columns)
    points = ((1, 32),) if context.quick else POINTS
    for name in ("tiny",) if context.quick else MODELS:
        if context.has_time(6.0, findings, name):
            in_turn, together = (_steps(context, name, points, fuses) for fuses in (False, True))
            for point, before, after in zip(points, in_turn, together, strict=True):
                findings.row(name, *point, 1000 * before[0], 1000 * after[0], before[1], after[1])


def _steps(
    context: Context, name: str, points: tuple[tuple[int, int], ...], fuses: bool
) -> list[tuple[float, float | None]]:
    """Seconds a step of each point, and what share of the bandwidth that is."""
    longest = max(past for _, past in points) + MOST_STEPS
    model = random_model(name, context.device, longest, fuses=fuses)
    caches = model.allocate(MOST_ROWS * -(-longest // BLOCK_SIZE))
    runner = model.runner(caches, MOST_ROWS, model.capture())
    found = []
    for num_seqs, past in points:
        decoding = Decoding(runner, num_seqs, past, MOST_STEPS)
        decoding.run(3)
        seconds = statistics.median(decoding.run(STEPS) / STEPS for _ in range(ROUNDS))
        found.append((seconds, context.share("read", _bytes_read(model, num_seqs, past) / seconds)))
        decoding.close()
    runner.close()
    caches.clear()
    if context.device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def _bytes_read(model: RandomModel, num_seqs: int, past: int) -> int:
    return model.step_weight_bytes + num_seqs * past * model.token_cache_bytes
