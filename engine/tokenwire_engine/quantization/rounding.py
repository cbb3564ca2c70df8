"""Quantizing on load: every weight to the nearest code, under the scale that loses least.

For 8 bits the scale is the one under which the largest weight of a group is the largest code. For 4 bits a
handful of smaller ones is tried too: clipping the largest weights often costs less than a coarse step for all
the others.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tokenwire_engine.quantization.schemes import QuantizedMatrix, Scheme
from tokenwire_kernels.cpu import Context, round_to_codes

_SHRINKAGES = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Shares of the largest weight that scales of fewer than 8 bits are tried for."""


def quantize_natively(weight: Tensor, scheme: Scheme, context: Context) -> QuantizedMatrix:
    """What `quantize` does, by the native CPU kernels."""
    shrinkages = _SHRINKAGES if scheme.bits < 8 else _SHRINKAGES[:1]
    return QuantizedMatrix(*round_to_codes(context, weight, scheme.bits, scheme.group_size, shrinkages))


def quantize(weight: Tensor, scheme: Scheme) -> QuantizedMatrix:
    """Round a matrix `[n, k]`, in any float format, into the scheme."""
    n, k = weight.shape
    size = scheme.group_size or k
    groups = functional.pad(weight.float(), (0, -k % size)).view(n, -1, size)
    magnitude = groups.abs().amax(dim=-1, keepdim=True)
    best_scales = _scales(magnitude, scheme)
    if scheme.bits < 8:
        best_error = _error(groups, best_scales, scheme)
        for shrinkage in _SHRINKAGES[1:]:
            scales = _scales(magnitude * shrinkage, scheme)
            error = _error(groups, scales, scheme)
            best_scales = torch.where(error < best_error, scales, best_scales)
            best_error = torch.minimum(error, best_error)
    codes = _codes(groups, best_scales, scheme).to(torch.int8).view(n, -1)[:, :k]
    return QuantizedMatrix(codes.contiguous(), best_scales[..., 0].contiguous())


def dequantize(matrix: QuantizedMatrix, scheme: Scheme) -> Tensor:
    """The float32 matrix `[n, k]` that the codes stand for."""
    k = matrix.codes.shape[1]
    scales = matrix.scales.repeat_interleave(scheme.group_size or k, dim=1)[:, :k]
    return matrix.codes.float() * scales


def _scales(magnitude: Tensor, scheme: Scheme) -> Tensor:
    scales = magnitude / scheme.largest
    if scheme.bits < 8:
        scales = scales.half().float()
    return scales


def _codes(groups: Tensor, scales: Tensor, scheme: Scheme) -> Tensor:
    inverse = torch.where(scales > 0, 1.0 / scales, 0.0)
    return (groups * inverse).round_().clamp_(-scheme.largest - 1, scheme.largest)


def _error(groups: Tensor, scales: Tensor, scheme: Scheme) -> Tensor:
    return (_codes(groups, scales, scheme) * scales - groups).square_().sum(dim=-1, keepdim=True)
