"""All layers of a decoder, for few sequences that decode, in one launch of CUDA C++ (`layers.cu`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from tokenwire_kernels.batch import AttentionBatch, LayerCache
from tokenwire_kernels.cuda.module import FLOAT, INT, POINTER, Kernel, compiled
from tokenwire_kernels.layers import LayersShape, LayerWeights
from tokenwire_kernels.triton.target import gpu_of

MOST_ROWS = 2
"""With more, the warps would compute for longer than the memory takes."""
SOURCE = "layers.cu"
WARPS = 8
"""That compute, of a block, of which a multiprocessor has one; another one sends them the matrices."""
CAPABILITY = 90
"""The first GPUs whose threads can have memory copied in bulk."""
ARGUMENTS = 12 * [POINTER] + 2 * [FLOAT] + 10 * [INT]
THREADS = 32 * (WARPS + 4)
"""Registers are given and taken by four warps at a time."""
HEAD_DIMS = (64, 128, 256)
MOST_GROUP = 8
"""Query heads that share a key head: their sums are registers."""
_STEP = 256
"""Numbers that a warp loads at a time: rows are multiples of it."""
_SLOT_BYTES = WARPS * (2 * 1024 + 2 * 8)
"""In shared memory, of a slot of each warp's ring: a kilobyte of two rows, and two barriers."""
_LEAST_RING, _MOST_RING = 4, 24
_ON_THEIR_WAY = 3
"""Slots of each ring: the 48 kB that a multiprocessor's share of the bandwidth needs, and no more."""
_MOST_SPLITS = 32
"""Blocks that share a head of keys."""
_STATIC_SHARED_BYTES = 1024
"""That the system takes of a block's."""


@dataclass(slots=True, frozen=True)
class Plan:
    """How a launch for at most so many rows is laid out."""

    rows: int
    ring: int
    """Slots between memory and each warp."""
    splits: int
    """Blocks that share a head of keys."""
    x_vectors: int
    """16 bytes each, of shared memory, that rows or attention's sums take."""
    shared_bytes: int


def plan_of(shape: LayersShape, num_rows: int, processors: int, shared_bytes: int) -> Plan | None:
    """None where the rows leave no room for a ring.

    Args:
        shared_bytes: that a block may have.
    """
    rows = 1 << (num_rows - 1).bit_length()
    widest = max(shape.hidden, shape.inner, shape.q_size)
    x_bytes = max(2 * rows * widest, 4 * WARPS * _part_numbers(shape))
    x_vectors = -(-x_bytes // 16)
    squares_bytes = 4 * rows * WARPS
    room = shared_bytes - _STATIC_SHARED_BYTES - 16 * x_vectors - squares_bytes
    ring = min(room // _SLOT_BYTES, _MOST_RING)
    if ring < _LEAST_RING:
        return None
    splits = max(1, min(_MOST_SPLITS, processors // (num_rows * shape.num_kv_heads)))
    return Plan(rows, ring, splits, x_vectors, 16 * x_vectors + ring * _SLOT_BYTES + squares_bytes)


def defines(shape: LayersShape, plan: Plan, dtype: torch.dtype) -> list[str]:
    """What the source is compiled with."""
    return [
        f"WARPS={WARPS}", f"RING={plan.ring}", f"ON_THEIR_WAY={_ON_THEIR_WAY}", f"MOST_ROWS={plan.rows}",
        f"HEAD_DIM={shape.head_dim}", f"GROUP={shape.group}", f"BFLOAT16={int(dtype == torch.bfloat16)}",
    ]  # fmt: skip


def fuse_layers(
    layers: Sequence[LayerWeights], shape: LayersShape, cos: Tensor, sin: Tensor
) -> CudaLayers | None:
    """Layers as one launch; None where there is no kernel for them.

    Args:
        cos: float32 [positions, head_dim / 2], as is `sin`.
    """
    is_served = (
        gpu_of(cos.device).capability >= CAPABILITY
        and layers[0].qkv.dtype in (torch.bfloat16, torch.float16)
        and shape.head_dim in HEAD_DIMS
        and shape.num_heads % shape.num_kv_heads == 0
        and shape.group <= MOST_GROUP
        and all(size % _STEP == 0 for size in (shape.hidden, shape.inner, shape.q_size))
    )
    return CudaLayers(layers, shape, cos, sin) if is_served else None


class CudaLayers:
    """A decoder's layers, ready to be launched together. See `FusedLayers`.

    What a launch leaves behind in the buffers that it computes in is nobody's, and the next one's: launches
    must follow each other on one stream.
    """

    def __init__(self, layers: Sequence[LayerWeights], shape: LayersShape, cos: Tensor, sin: Tensor) -> None:
        weight = layers[0].qkv
        self._layers = layers
        self.shape = shape
        self._cos, self._sin = cos, sin
        self._dtype, self._device = weight.dtype, weight.device
        self._tables: dict[tuple[int, ...], Tensor] = {}
        """Addresses of each layer's tensors, by those of its cache."""
        self._buffers: _Buffers | None = None

    def takes(self, batch: AttentionBatch, cache: LayerCache, num_tokens: int) -> bool:
        """See `FusedLayers.takes`: few decodes, and a cache of the weights' dtype."""
        block_size = cache.keys.shape[2]
        return (
            num_tokens == batch.num_decodes == len(batch.context_lens) <= MOST_ROWS
            and cache.keys.dtype == self._dtype
            and cache.key_scales is None
            and block_size & (block_size - 1) == 0
            and self._plan(num_tokens) is not None
        )

    def __call__(
        self, residual: Tensor, batch: AttentionBatch, cache_slots: Tensor, caches: Sequence[LayerCache]
    ) -> None:
        """See `FusedLayers.__call__`.

        Raises:
            CudaError: it cannot be compiled, or launched.
        """
        plan = self._plan(len(residual))
        assert plan is not None
        kernel = _kernel_of(self.shape, plan, self._dtype, self._device)
        kernel.launch(
            gpu_of(self._device).processors,
            THREADS,
            plan.shared_bytes,
            self.arguments(plan, residual, batch, cache_slots, caches),
            cooperates=True,
        )

    def arguments(
        self,
        plan: Plan,
        residual: Tensor,
        batch: AttentionBatch,
        cache_slots: Tensor,
        caches: Sequence[LayerCache],
    ) -> list[int | float]:
        """Of the kernel, in its order."""
        shape, buffers = self.shape, self._reserve()
        block_bits = caches[0].keys.shape[2].bit_length() - 1
        tensors = (
            self._table(caches), residual, buffers.qkv, buffers.activated, buffers.attended, buffers.parts,
            buffers.counters, self._cos, self._sin, batch.context_lens, batch.block_tables, cache_slots,
        )  # fmt: skip
        return [
            *(tensor.data_ptr() for tensor in tensors), shape.eps, shape.scale,
            len(self._layers), len(residual), shape.hidden, shape.inner, shape.num_kv_heads,
            batch.block_tables.stride(0), block_bits, shape.window, plan.splits, plan.x_vectors,
        ]  # fmt: skip

    def _plan(self, num_rows: int) -> Plan | None:
        return plan_of(self.shape, num_rows, gpu_of(self._device).processors, _shared_bytes_of(self._device))

    def _reserve(self) -> _Buffers:
        """Buffers for any launch: graphs are captured with their addresses, so that they stay."""
        if self._buffers is None:
            processors = gpu_of(self._device).processors
            self._buffers = _Buffers.make(self.shape, processors, self._dtype, self._device)
        return self._buffers

    def _table(self, caches: Sequence[LayerCache]) -> Tensor:
        key = tuple(tensor.data_ptr() for cache in caches for tensor in (cache.keys, cache.values))
        if key not in self._tables:
            rows = [_addresses(layer, cache) for layer, cache in zip(self._layers, caches, strict=True)]
            self._tables[key] = torch.tensor(rows, dtype=torch.int64).to(self._device)
        return self._tables[key]


@dataclass(slots=True, frozen=True)
class _Buffers:
    """What blocks tell each other, for `MOST_ROWS` rows."""

    qkv: Tensor
    activated: Tensor
    attended: Tensor
    """Each number as float32, and the tag of when it was written."""
    parts: Tensor
    """What each head's queries have seen of each part of the past, likewise."""
    counters: Tensor
    """int32: two that are 0 between launches, and the tags that were used."""

    @staticmethod
    def make(shape: LayersShape, processors: int, dtype: torch.dtype, device: torch.device) -> _Buffers:
        heads = MOST_ROWS * shape.num_kv_heads
        parts = max(processors, heads)  # each head has as many as there are blocks for it, or one
        return _Buffers(
            qkv=torch.empty(MOST_ROWS, shape.qkv_size, dtype=dtype, device=device),
            activated=torch.empty(MOST_ROWS, shape.inner, dtype=dtype, device=device),
            attended=torch.zeros(MOST_ROWS, shape.q_size, 2, device=device),
            parts=torch.zeros(parts, _part_numbers(shape), 2, device=device),
            counters=torch.zeros(3, dtype=torch.int32, device=device),
        )


def _part_numbers(shape: LayersShape) -> int:
    """Of what a head of keys' queries have seen of a part of the past; in steps of 16 bytes."""
    return -(-shape.group * (shape.head_dim + 2) // 4) * 4


def _addresses(layer: LayerWeights, cache: LayerCache) -> list[int]:
    """In the order of `Layer` in the source."""
    norms = layer.head_norms
    q_norm, k_norm = (None, None) if norms is None else (norms.q_weight, norms.k_weight)
    tensors = (
        layer.qkv, layer.o, layer.gate_up, layer.down, layer.attention_norm.weight, layer.mlp_norm.weight,
        q_norm, k_norm,
        layer.qkv_bias, layer.o_bias, layer.gate_up_bias, layer.down_bias, cache.keys, cache.values,
    )  # fmt: skip
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


@cache
def _shared_bytes_of(device: torch.device) -> int:
    """That a block may have at most; off a GPU, an H200's."""
    if device.type != "cuda":
        return 227 << 10
    properties = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)  # type: ignore[attr-defined]


@cache
def _kernel_of(shape: LayersShape, plan: Plan, dtype: torch.dtype, device: torch.device) -> Kernel:
    cubin = compiled(SOURCE, defines(shape, plan, dtype), gpu_of(device).capability)
    return Kernel(cubin, "layers", ARGUMENTS, plan.shared_bytes, device)
