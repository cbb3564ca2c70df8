"""The reference's random numbers, bit for bit: Philox4x32-10 keyed by seed, position and sample index."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# (A kernel's parameters are what Triton makes of the launch's arguments: no Python types.)
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def uniform(seed, sample_index, position):
    """A number in [0, 1), a multiple of 2**-24; see `reference.random.uniform`."""
    low = (position & 0xFFFFFFFF).to(tl.uint32)
    high = ((position >> 32) & 0xFFFFFFFF).to(tl.uint32)
    index = sample_index.to(tl.uint32, bitcast=True)
    word, _, _, _ = tl.philox(seed, low, high, index, low * 0)
    return (word >> 8).to(tl.float32) * (2.0**-24)
