"""Random numbers that depend on nothing but a key and a counter: Philox4x32-10 (Salmon et al., 2011).

A row's numbers are a pure function of (seed, sample index, position), and of the token that each is for:
neither the batch around it, nor a preemption, nor another machine changes them.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIER_0, _MULTIPLIER_2 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


def row_keys(seeds: Tensor, sample_indices: Tensor, positions: Tensor) -> Tensor:
    """Two random 32-bit words per row, which its tokens' numbers are made from.

    The key is the seed, the counter is (position low, position high, sample index, 0), and the words are the
    first two of the output.

    Args:
        seeds: int64 [num_rows].
        sample_indices: int32 [num_rows].
        positions: int64 [num_rows].

    Returns:
        int64 [num_rows, 2], values below 2**32.
    """
    counter = (
        positions & _MASK,
        positions >> 32 & _MASK,
        sample_indices.long() & _MASK,
        torch.zeros_like(seeds),
    )
    first, second, *_ = philox(seeds & _MASK, seeds >> 32 & _MASK, counter)
    return torch.stack([first, second], dim=-1)


def exponentials(keys: Tensor, vocab_size: int) -> Tensor:
    """A number for each token, exponentially distributed with mean 1.

    -log(1 - u), where u is a hash of the token and the row's keys, spread over (0, 1]. The hash's constants
    are those of Wellons' search for 32-bit integer hashes of low bias (hash-prospector).

    Args:
        keys: int64 [num_rows, 2], of `row_keys`.

    Returns:
        float32 [num_rows, vocab_size].
    """
    word = torch.arange(vocab_size, device=keys.device) * _WEYL_0 + keys[:, :1] & _MASK
    word = (word ^ word >> 16) * 0x21F0AAAD & _MASK
    word = word + keys[:, 1:] & _MASK
    word = (word ^ word >> 15) * 0x735A2D97 & _MASK
    word ^= word >> 15
    return torch.log1p(-(word.float() * 2.0**-32 + 2.0**-33)).neg_()


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
