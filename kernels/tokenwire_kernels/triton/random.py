"""The reference's random numbers, bit for bit: Philox4x32-10 keyed by seed, position and sample index."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def row_keys(seed, sample_index, position):
    """Two random words for a row; see `reference.random.row_keys`."""
    low = (position & 0xFFFFFFFF).to(tl.uint32)
    high = ((position >> 32) & 0xFFFFFFFF).to(tl.uint32)
    index = sample_index.to(tl.uint32, bitcast=True)
    first, second, _, _ = tl.philox(seed, low, high, index, low * 0)
    return first, second


@triton.jit
def uniform(token, first_key, second_key):
    """A number for each token, spread over (0, 1]; see `reference.random.exponentials`."""
    word = token.to(tl.uint32) * 0x9E3779B9 + first_key
    word = (word ^ (word >> 16)) * 0x21F0AAAD
    word = word + second_key
    word = (word ^ (word >> 15)) * 0x735A2D97
    word = word ^ (word >> 15)
    return word.to(tl.float32) * (2.0**-32) + (2.0**-33)


@triton.jit
def exponential(number):
    """-log(1 - number), exponentially distributed where the number is uniformly; never below the number."""
    # 1 - number would lose the digits of a small one.
    series = number * (1.0 + number * (0.5 + number * (1.0 / 3.0 + number * (0.25 + number * 0.2))))
    return tl.where(number < 0.03125, series, -tl.log(tl.maximum(1.0 - number, 1e-37)))
