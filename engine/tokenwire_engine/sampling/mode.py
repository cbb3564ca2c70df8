"""What it takes to sample a batch: from nothing but a maximum to whatever a request may ask for."""

from __future__ import annotations

from enum import Enum, auto


class SamplingMode(Enum):
    """Of a batch, by the most demanding of its requests."""

    GREEDY = auto()
    UNFILTERED = auto()
    """Temperatures only."""
    FILTERED = auto()
    """Top-k, top-p or min-p."""
    SPECIAL = auto()
    """More than one kernel: penalties, biases, bad words, minimum lengths, typical-p or log-probabilities."""
