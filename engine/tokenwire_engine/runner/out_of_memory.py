"""A lack of GPU memory while starting: one line with what was asked, what was free, and what to change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tokenwire_engine.models.errors import ModelError

LESS_WEIGHT = "choose a smaller model, or a GPU with more memory"
SMALLER_STEP = "lower --max-step-tokens or --max-running"
SMALLER_CACHE = "lower --gpu-memory-utilization or --kv-cache-memory"
FEWER_GRAPHS = "lower --gpu-memory-utilization or --max-running, or start with --no-cuda-graphs"


@contextmanager
def explained(doing: str, advice: str) -> Iterator[None]:
    """What fails inside for want of memory does so as a `ModelError`.

    Args:
        doing: what needs the memory, such as "capturing CUDA graphs".
        advice: the options to change.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        asked = _amount(r"Tried to allocate ([\d.]+ \w+)", str(error))
        free = _amount(r"of which ([\d.]+ \w+) is free", str(error))
        raise ModelError(
            f"out of GPU memory while {doing}: {asked} was asked for, {free} was free; {advice}"
        ) from error


def _amount(pattern: str, message: str) -> str:
    """What PyTorch says in its own words of a size."""
    found = re.search(pattern, message)
    return found.group(1) if found else "an unknown amount"
