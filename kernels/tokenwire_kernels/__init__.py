"""Operators on tensors: one definition each, several implementations.

`reference/` defines every operator in plain PyTorch. Other folders implement the same operators for
particular hardware; `select_kernels` picks, once, what serves a device.
"""

from tokenwire_kernels.batch import (
    CACHE_SCALE_BYTES,
    AttentionBatch,
    DecodeRows,
    HeadNorms,
    LayerCache,
    PenaltyBatch,
    RowNorm,
    SamplingBatch,
)
from tokenwire_kernels.cpu.library import NativeError
from tokenwire_kernels.layers import FusedLayers, LayersShape, LayerWeights
from tokenwire_kernels.registry import Kernels, describe_kernels, select_kernels

__all__ = [
    "CACHE_SCALE_BYTES",
    "AttentionBatch",
    "DecodeRows",
    "FusedLayers",
    "HeadNorms",
    "Kernels",
    "LayerCache",
    "LayerWeights",
    "LayersShape",
    "NativeError",
    "PenaltyBatch",
    "RowNorm",
    "SamplingBatch",
    "describe_kernels",
    "select_kernels",
]
