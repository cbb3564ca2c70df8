"""Random numbers that depend on nothing but a key and a counter: Philox4x32-10 (Salmon et al., 2011).

A row's number is a pure function of (seed, sample index, position): neither the batch around it, nor a
preemption, nor another machine changes it.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIER_0, _MULTIPLIER_2 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


def uniform(seeds: Tensor, sample_indices: Tensor, positions: Tensor) -> Tensor:
    """One number per row in [0, 1), a multiple of 2**-24.

    The key is the seed; the counter is (position low, position high, sample index, 0); the number is the
    upper 24 bits of the first output word.

    Args:
        seeds: int64 [num_rows].
        sample_indices: int32 [num_rows].
        positions: int64 [num_rows].

    Returns:
        float32 [num_rows].
    """
    counter = (
        positions & _MASK,
        positions >> 32 & _MASK,
        sample_indices.long() & _MASK,
        torch.zeros_like(seeds),
    )
    word = philox(seeds & _MASK, seeds >> 32 & _MASK, counter)[0]
    return (word >> 8).float() * 2.0**-24


def philox(key_0: Tensor, key_1: Tensor, counter: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Four random 32-bit words per element; all words are int64 tensors that hold values below 2**32."""
    word_0, word_1, word_2, word_3 = counter
    for _ in range(_ROUNDS):
        high_0, low_0 = _multiply(word_0, _MULTIPLIER_0)
        high_2, low_2 = _multiply(word_2, _MULTIPLIER_2)
        word_0, word_1, word_2, word_3 = high_2 ^ word_1 ^ key_0, low_2, high_0 ^ word_3 ^ key_1, low_0
        key_0, key_1 = key_0 + _WEYL_0 & _MASK, key_1 + _WEYL_1 & _MASK
    return word_0, word_1, word_2, word_3


def _multiply(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 32 by 32 bit product, without leaving int64."""
    upper = (word >> 16) * multiplier
    lower = (word & 0xFFFF) * multiplier
    middle = (upper & 0xFFFF) + (lower >> 16)
    return (upper >> 16) + (middle >> 16), (middle << 16 | lower & 0xFFFF) & _MASK
