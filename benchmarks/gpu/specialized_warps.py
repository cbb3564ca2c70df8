"""Attention of prompts by warps that all do the same, by warps of different tasks, and by SDPA.

It has a section, and so a process, of its own. Both of our kernels must give the same, up to rounding; SDPA's
keys and values lie one after the other, and its mask is that of whole prompts alone.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.gpu.attention_cases import BLOCK_SIZE, attention_call
from benchmarks.gpu.findings import Findings
from benchmarks.gpu.peers import AttentionShape, attention_peers
from benchmarks.gpu.section import Context, SkippedError
from benchmarks.gpu.timing import seconds_per_call
from tokenwire_kernels import Kernels, select_kernels

PROMPTS = ((1, 2048, 2048), (1, 8192, 8192), (4, 512, 4096))
"""Sequences, queries and context of each."""
HEADS = ((32, 8, 128), (32, 8, 64))
CAPABILITY = (9, 0)
"""Only Hopper's tensor cores are told what to do in this way."""


def measure(context: Context, findings: Findings) -> None:
    """Every prompt with every kind of heads."""
    device = context.device
    if device.type == "cuda" and torch.cuda.get_device_capability(device) != CAPABILITY:
        raise SkippedError("warps of different tasks attend on compute capability 9.0 alone")
    ways = _ways(select_kernels(device, "torch"), device)
    findings.table(
        "Specialized warps",
        "queries",
        "sequences",
        "context",
        "head size",
        "µs",
        "µs, specialized",
        "µs, SDPA",
        "largest difference",
    )
    for heads in ((4, 2, 16),) if context.quick else HEADS:
        for num_seqs, queries, past in ((1, 24, 70),) if context.quick else PROMPTS:
            if not context.has_time(2.0, findings, f"{queries} queries over {past}"):
                continue
            shape = AttentionShape(num_seqs, queries, past, *heads, BLOCK_SIZE, device)
            seed = torch.random.initial_seed()
            taken: list[float] = []
            attended: list[Tensor] = []
            for way in ways:
                torch.manual_seed(seed)  # both attend to the same
                call = attention_call(shape, way)
                attended.append(call().float())
                taken.append(1e6 * seconds_per_call([call], device))
            difference = float((attended[1] - attended[0]).abs().max())
            findings.row(queries, num_seqs, past, heads[-1], *taken, _by_sdpa(shape), difference)


def _ways(kernels: Kernels, device: torch.device) -> list[Kernels]:
    """Twice the same on a CPU, where neither runs."""
    if device.type == "cpu":
        return [kernels, kernels]
    from tokenwire_kernels.triton import attention, hopper_attention

    return [replace(kernels, paged_attention=way.paged_attention) for way in (attention, hopper_attention)]


def _by_sdpa(shape: AttentionShape) -> float | None:
    """Microseconds; None where it has no such mask."""
    sdpa = next((peer for peer in attention_peers(shape) if peer.name == "SDPA"), None)
    return None if sdpa is None else 1e6 * seconds_per_call(sdpa.calls(1), shape.device)
