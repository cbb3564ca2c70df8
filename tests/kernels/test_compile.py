"""The GPU's kernels compile for every GPU generation, without spilling registers, within shared memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

_LIMITS = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}


def _compiled(*options: str) -> list[dict[str, int | str]]:
    """Compiled in a process of its own: in this one, kernels are interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    printed = subprocess.run(
        [sys.executable, "-m", "benchmarks.compile", "--json", *options],
        check=True, capture_output=True, text=True, env=environment,
    ).stdout  # fmt: skip
    return json.loads(printed)


def _assert_fit(usages: list[dict[str, int | str]]) -> None:
    assert {usage["capability"] for usage in usages} == set(_LIMITS)
    spilled = [usage for usage in usages if usage["stack_bytes"]]
    assert not spilled
    too_large = [usage for usage in usages if usage["shared_bytes"] > _LIMITS[usage["capability"]]]
    assert not too_large


def test_the_usual_shapes_fit_every_generation() -> None:
    usages = _compiled("--quick")
    kernels = {usage["kernel"] for usage in usages}
    assert {
        "rms_norm",
        "silu_and_mul",
        "rotary_and_cache",
        "decode",
        "chunk",
        "hopper",
        "few_rows",
        "few_rows_4_1",
        "first_of_part",
    } <= kernels
    _assert_fit(usages)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_shapes_and_dtypes_fit_every_generation() -> None:
    _assert_fit(_compiled())


_BATCHES = """
import torch
from benchmarks.recording import recorded
from tokenwire_kernels import AttentionBatch, LayerCache
from tokenwire_kernels.triton import attention, chunk_attention, decode_attention, hopper_attention

def empty(*shape, dtype=torch.int32):
    return torch.empty(shape, dtype=dtype, device="meta")

def attend(operator, decodes, chunks, blocks):
    seqs, tokens = decodes + chunks, decodes + 100 * chunks
    batch = AttentionBatch(empty(seqs, blocks), empty(seqs + 1), empty(seqs), 100, 16 * blocks, decodes)
    keys = empty(64, 8, 16, 128, dtype=torch.bfloat16)
    operator.paged_attention(empty(tokens, 32, 128, dtype=torch.bfloat16), LayerCache(keys, keys), batch, 0.1)

for counts in [(1, 1, 1), (2, 1, 16), (16, 16, 33), (3, 2, 64)]:
    for operator in (attention, hopper_attention):
        modules = [chunk_attention, decode_attention, hopper_attention]
        for launch in recorded("", modules, lambda: attend(operator, *counts)):
            if launch.kernel != "schedule":  # small, and one for each power of two of decodes
                print(launch.kernel, launch.specialization)
"""


def test_no_batch_of_another_size_has_attention_compiled_anew() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    printed = subprocess.run(
        [sys.executable, "-c", _BATCHES], check=True, capture_output=True, text=True, env=environment
    ).stdout
    kernels = {line.split()[0] for line in printed.splitlines()}
    assert kernels == {"chunk", "decode", "hopper"}
    assert len(set(printed.splitlines())) == len(kernels)
