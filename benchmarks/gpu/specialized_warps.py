"""Attention of prompts by warps that all do the same, and by warps of different tasks.

It has a section, and so a process, of its own: an option that is off until it has run on a GPU must not take
other measurements with it. Both ways must give the same, up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu.attention_cases import BLOCK_SIZE, attention_call
from benchmarks.gpu.findings import Findings
from benchmarks.gpu.peers import AttentionShape
from benchmarks.gpu.section import Context, SkippedError
from benchmarks.gpu.timing import seconds_per_call
from tokenwire_kernels import select_kernels
from tokenwire_kernels.triton.target import specialize_warps

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
    kernels = select_kernels(device, "torch")
    findings.table(
        "Specialized warps",
        "queries",
        "sequences",
        "context",
        "head size",
        "µs",
        "µs, specialized",
        "largest difference",
    )
    for heads in ((4, 2, 16),) if context.quick else HEADS:
        for num_seqs, queries, past in ((1, 24, 70),) if context.quick else PROMPTS:
            if not context.has_time(2.0, findings, f"{queries} queries over {past}"):
                continue
            call = attention_call(
                AttentionShape(num_seqs, queries, past, *heads, BLOCK_SIZE, device), kernels
            )
            taken: list[float] = []
            attended: list[Tensor] = []
            for specialized in (False, True):
                specialize_warps(specialized)
                attended.append(call().float())
                taken.append(1e6 * seconds_per_call([call], device))
            difference = float((attended[1] - attended[0]).abs().max())
            findings.row(queries, num_seqs, past, heads[-1], *taken, difference)
