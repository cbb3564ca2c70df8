"""The scales of a cache of fp8, where a checkpoint was calibrated for one.

A checkpoint has a scale for each layer's keys and one for its values, of the whole layer or of each KV head,
under one of the names that llm-compressor and ModelOpt write. What is stored times its scale is the key, or
the value. A layer without scales has 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenwire_engine.models.architecture import Architecture
from tokenwire_engine.models.errors import ModelError
from tokenwire_engine.weights.reader import Piece, WeightReader

_KEY_SCALES = ("{}self_attn.k_scale", "{}self_attn.k_proj.k_scale")
_VALUE_SCALES = ("{}self_attn.v_scale", "{}self_attn.v_proj.v_scale")


@dataclass(slots=True, frozen=True)
class CacheScales:
    """Of one layer: float32 `[num_kv_heads]` each, on the device."""

    keys: Tensor
    values: Tensor


def read_cache_scales(reader: WeightReader, architecture: Architecture) -> list[CacheScales]:
    """Each layer's scales.

    Raises:
        ModelError: a scale is not a positive number, or there are neither one nor as many as KV heads.
    """
    prefixes = [architecture.names.layer.format(layer) for layer in range(architecture.num_layers)]
    heads = architecture.num_kv_heads
    return [
        CacheScales(
            _scales(reader, [name.format(prefix) for name in _KEY_SCALES], heads),
            _scales(reader, [name.format(prefix) for name in _VALUE_SCALES], heads),
        )
        for prefix in prefixes
    ]


def _scales(reader: WeightReader, names: list[str], num_kv_heads: int) -> Tensor:
    for name in names:
        if (shape := reader.shape_of(name)) is not None:
            scales = reader.views(Piece(name, shape))[0].float().flatten()
            if len(scales) not in (1, num_kv_heads) or not bool(((scales > 0) & scales.isfinite()).all()):
                raise ModelError(
                    f"{name} is {scales.tolist()}; expected a positive number, or one for each of "
                    f"{num_kv_heads} KV heads"
                )
            return scales.expand(num_kv_heads).contiguous().to(reader.device)
    return torch.ones(num_kv_heads, device=reader.device)
