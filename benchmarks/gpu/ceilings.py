"""What the device does at best: reading and copying memory, taking it from the host, multiplying matrices.

Everything else in the report is a fraction of these. The highest of several ways to do the same counts.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.gpu.findings import Findings
from benchmarks.gpu.section import Context
from benchmarks.gpu.timing import Call, seconds_per_call

TITLE = "Ceilings"
READ, COPY, UPLOAD = "read, GB/s", "copy (read + written), GB/s", "locked host memory to device, GB/s"
MATMUL = "bf16 matrix product, TFLOP/s"


def measure(context: Context, findings: Findings) -> None:
    """All ceilings."""
    findings.table(TITLE, "what", "measured", "how")
    _measure_memory(context, findings, 1 << (16 if context.quick else 32))
    if context.device.type == "cuda":
        _measure_upload(context, findings, 1 << (16 if context.quick else 30))
    _measure_products(context, findings)


def _measure_memory(context: Context, findings: Findings, size: int) -> None:
    source = torch.empty(size // 4, dtype=torch.float32, device=context.device).normal_()
    rates = {name: size / seconds_per_call([call], context.device) for name, call in _reads(source)}
    best = max(rates, key=lambda name: rates[name])
    findings.row(READ, rates[best] / 1e9, f"{size >> 10} KiB of float32, {best}")
    target = torch.empty_like(source)
    seconds = seconds_per_call([lambda: target.copy_(source)], context.device)
    findings.row(COPY, 2 * size / seconds / 1e9, f"{size >> 10} KiB, torch.Tensor.copy_")


def _measure_upload(context: Context, findings: Findings, size: int) -> None:
    source = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(size, dtype=torch.uint8, device=context.device)
    seconds = seconds_per_call([lambda: target.copy_(source, non_blocking=True)], context.device)
    findings.row(UPLOAD, size / seconds / 1e9, f"{size >> 10} KiB, torch.Tensor.copy_")


def _measure_products(context: Context, findings: Findings) -> None:
    best_rate, shape = 0.0, ""
    for m, n, k in [(64, 64, 64)] if context.quick else [(8192, 8192, 8192), (8192, 14336, 4096)]:
        a = torch.randn(m, k, device=context.device).bfloat16()
        b = torch.randn(n, k, device=context.device).bfloat16()
        rate = 2 * m * n * k / seconds_per_call([_product(a, b)], context.device)
        if rate > best_rate:
            best_rate, shape = rate, f"{m} x {n} x {k}, random, torch.nn.functional.linear"
    findings.row(MATMUL, best_rate / 1e12, shape)


def _product(a: torch.Tensor, b: torch.Tensor) -> Call:
    return lambda: torch.nn.functional.linear(a, b)


def _reads(source: torch.Tensor) -> Iterator[tuple[str, Call]]:
    yield "torch.sum", source.sum
    yield "torch.amax", source.amax
    if source.device.type == "cuda":
        from benchmarks.gpu.read_kernel import read

        for num_warps in (4, 8):
            yield f"Triton, {num_warps} warps", lambda num_warps=num_warps: read(source, num_warps)  # type: ignore[misc]
