"""A fixed table of request lengths in the shape of conversations: many short, a few long.

Prompts and answers are drawn once from log-normal distributions, cut to what a chat sends, with a generator
whose numbers are the same everywhere. ShareGPT's own lengths have this shape; its texts are not here.
"""

from __future__ import annotations

import math
import random

PROMPT_MEDIAN, PROMPT_SPREAD = 120, 1.1
OUTPUT_MEDIAN, OUTPUT_SPREAD = 150, 0.9
LEAST, MOST = 4, 1024


def request_lengths(count: int) -> list[tuple[int, int]]:
    """(prompt tokens, output tokens) of the first `count` requests."""
    generator = random.Random(20_240_601)
    return [
        (_draw(generator, PROMPT_MEDIAN, PROMPT_SPREAD), _draw(generator, OUTPUT_MEDIAN, OUTPUT_SPREAD))
        for _ in range(count)
    ]


def _draw(generator: random.Random, median: float, spread: float) -> int:
    # From two uniform numbers (Box and Muller): `lognormvariate` may change between Python versions.
    radius = math.sqrt(-2 * math.log(1 - generator.random()))
    normal = radius * math.cos(2 * math.pi * generator.random())
    return max(LEAST, min(MOST, round(median * math.exp(spread * normal))))
