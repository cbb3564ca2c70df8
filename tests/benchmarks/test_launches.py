"""A captured step asks the device for nothing, and its kernels compile, for models of true sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

LIMIT = 227 * 1024
"""Bytes of shared memory that a program may use on sm_90."""


def found(*options: str) -> dict[str, list[dict[str, Any]]]:
    """In a process of its own: in this one, kernels are interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.launches", "--json", *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout)


def test_a_step_of_a_1b_model_is_captured_without_asking_the_device() -> None:
    works = found("--models", "Llama-3.2-1B")["works"]
    forward = {work["rows"]: work for work in works if work["part"] == "forward"}
    assert max(forward) == 256
    # In each of 16 layers at least: two products and attention with its write, and two products of the MLP.
    assert all(work["kernels"] + work["library"] >= 16 * 6 for work in forward.values())
    sampling = [work for work in works if work["part"] != "forward"]
    assert all(work["library"] == 0 for work in sampling)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_kernel_of_the_steps_compiles_without_a_spill() -> None:
    usages = found("--compile")["usages"]
    assert usages
    assert not [usage for usage in usages if usage["stack_bytes"] or usage["shared_bytes"] > LIMIT]
