"""Sizes of grids and tiles, computed on the host.

Triton's functions of these names serve kernels as well, and look at each argument for what the compiler makes
of it: a few of their calls take as long as a launch.
"""

from __future__ import annotations


def ceil_div(n: int, divisor: int) -> int:
    """n / divisor, rounded up; both positive."""
    return -(-n // divisor)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least n, which is positive."""
    return 1 << (n - 1).bit_length()
