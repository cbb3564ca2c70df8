"""Rotary position embedding: the angles' cosines and sines for every position.

Frequencies and tables are computed in float32, as transformers does, whatever the model's dtype.

Dynamic NTK scaling makes the base depend on how long the sequence has become. Here row p of the table uses
the base for a sequence of p + 1 tokens (the trained one while p is within the trained length). A cached key
thus depends on its own position only, so that chunks, prefix hits and preemptions cannot change a result.
It is what transformers computes for a prompt within the trained length and the tokens generated after it,
one by one; for a prompt that is itself longer, transformers rotates all of it with the base for its full
length instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenwire_engine.models.architecture import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    Rotary,
    YarnScaling,
)


@dataclass(slots=True, frozen=True)
class RotaryTable:
    """Cosines and sines, float32 `[max_positions, head_dim // 2]`, the attention factor multiplied in."""

    cos: Tensor
    sin: Tensor


def rotary_table(rotary: Rotary, head_dim: int, num_positions: int, device: torch.device) -> RotaryTable:
    """The table for positions 0 to `num_positions` - 1."""
    positions = torch.arange(num_positions, dtype=torch.float32, device=device)
    frequencies, attention_factor = inverse_frequencies(rotary, head_dim, device)
    angles = positions[:, None] * frequencies
    if isinstance(rotary.scaling, DynamicScaling) and num_positions > rotary.max_positions:
        beyond = positions[rotary.max_positions :]
        angles[rotary.max_positions :] = beyond[:, None] * _dynamic_frequencies(
            rotary.scaling, rotary, head_dim, beyond + 1
        )
    cos, sin = angles.cos(), angles.sin_()
    if attention_factor != 1.0:
        cos *= attention_factor
        sin *= attention_factor
    return RotaryTable(cos, sin)


def inverse_frequencies(rotary: Rotary, head_dim: int, device: torch.device) -> tuple[Tensor, float]:
    """Radians per position of each pair of dimensions `[head_dim // 2]`, and the factor for cos and sin."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    wavelengths = rotary.theta**exponents  # over 2 pi
    plain = 1.0 / wavelengths
    match rotary.scaling:
        case LinearScaling(factor=factor):
            return plain / factor, 1.0
        case Llama3Scaling() as llama3:
            return _llama3_frequencies(llama3, plain), 1.0
        case YarnScaling() as yarn:
            return _yarn_frequencies(yarn, rotary.theta, head_dim, wavelengths), yarn.attention_factor
        case _:
            return plain, 1.0


def _dynamic_frequencies(
    scaling: DynamicScaling, rotary: Rotary, head_dim: int, sequence_lengths: Tensor
) -> Tensor:
    """The frequencies for sequences of these lengths, `[num_lengths, head_dim // 2]`."""
    growth = scaling.factor * sequence_lengths / rotary.max_positions - (scaling.factor - 1)
    theta = rotary.theta * growth ** (head_dim / (head_dim - 2))
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=theta.device) / head_dim
    return 1.0 / theta[:, None] ** exponents


def _llama3_frequencies(scaling: Llama3Scaling, plain: Tensor) -> Tensor:
    turns = scaling.original_max_positions * plain / (2 * math.pi)  # within the trained length
    ramp = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    ramp = ramp.clamp(0.0, 1.0)
    return (1 - ramp) * plain / scaling.factor + ramp * plain


def _yarn_frequencies(scaling: YarnScaling, theta: float, head_dim: int, wavelengths: Tensor) -> Tensor:
    def dimension_with(turns: float) -> float:
        """The (fractional) pair of dimensions that makes this many turns within the trained length."""
        return (
            head_dim
            * math.log(scaling.original_max_positions / (turns * 2 * math.pi))
            / (2 * math.log(theta))
        )

    low, high = dimension_with(scaling.beta_fast), dimension_with(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # a step instead of a division by zero
    pairs = torch.arange(head_dim // 2, dtype=torch.float32, device=wavelengths.device)
    interpolated = ((pairs - low) / (high - low)).clamp(0.0, 1.0)
    return interpolated / (scaling.factor * wavelengths) + (1 - interpolated) / wavelengths
