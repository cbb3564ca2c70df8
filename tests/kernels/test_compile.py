"""The Triton kernels compile for every GPU generation, without spilling registers, within shared memory."""

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
        "few_rows",
        "race",
    } <= kernels
    _assert_fit(usages)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_shapes_and_dtypes_fit_every_generation() -> None:
    _assert_fit(_compiled())
