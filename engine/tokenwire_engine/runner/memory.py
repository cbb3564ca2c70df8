"""How much memory the KV cache gets, and how many blocks that makes.

The cache always holds at least one sequence of the full context length, so that every request that the
server admits can finish; where it cannot, the engine does not start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tokenwire_engine.kv_cache.block_table import ceil_div
from tokenwire_engine.kv_cache.groups import LayerGroup, longest_sequence, most_blocks
from tokenwire_engine.models.architecture import Architecture
from tokenwire_engine.models.errors import ModelError
from tokenwire_engine.weights.cache_scales import CacheScales
from tokenwire_kernels import CACHE_SCALE_BYTES, LayerCache

HOST_SHARE = 0.25
"""Of the free host memory, what the cache may take without being told to."""
HOST_LIMIT = 0.8
"""The same, where one sequence of the full context length needs more than `HOST_SHARE`."""


@dataclass(slots=True, frozen=True)
class CacheGeometry:
    """The shape of the KV cache, but for the number of blocks."""

    groups: tuple[LayerGroup, ...]
    num_kv_heads: int
    head_dim: int
    block_size: int
    dtype: torch.dtype
    """Of what is stored."""
    step_tokens: int
    """Most tokens of one sequence that a step computes."""

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers of its group, keys and values."""
        block = self.num_kv_heads * self.block_size * self._row * self.dtype.itemsize
        return 2 * self._layers_per_block * block

    @property
    def _row(self) -> int:
        """Elements of a token's head: see `LayerCache`."""
        return self.head_dim + (CACHE_SCALE_BYTES if self.dtype == torch.int8 else 0)

    @property
    def _layers_per_block(self) -> int:
        return max(len(group.layers) for group in self.groups)

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks for all of so many tokens of one sequence, in all groups together."""
        return ceil_div(num_tokens, self.block_size) * len(self.groups)

    @property
    def windows(self) -> tuple[int, ...]:
        """Of each group: tokens that a token sees at most; 0: all before it."""
        return tuple(group.window for group in self.groups)

    def most_blocks(self, num_tokens: int) -> int:
        """Most blocks that a sequence of so many tokens ever holds at a time."""
        return most_blocks(num_tokens, self.windows, self.block_size, self.step_tokens)

    def longest_sequence(self, num_blocks: int, most: int) -> int:
        """Tokens of the longest sequence that fits into so many blocks, but no more than `most`."""
        return longest_sequence(num_blocks, self.windows, self.block_size, self.step_tokens, most)

    def allocate(
        self, num_blocks: int, device: torch.device, scales: Sequence[CacheScales] = ()
    ) -> list[LayerCache]:
        """Caches of `num_blocks` blocks, one for each layer; those of different groups share their tensors.
        On a host, untouched pages take no memory.

        Args:
            scales: of a cache of fp8, for each layer; 1 where there are none.
        """
        shape = (num_blocks, self.num_kv_heads, self.block_size, self._row)
        stored = [
            [torch.empty(shape, dtype=self.dtype, device=device) for _ in range(2)]
            for _ in range(self._layers_per_block)
        ]
        place_of = {layer: place for group in self.groups for place, layer in enumerate(group.layers)}
        pairs = [stored[place_of[layer]] for layer in sorted(place_of)]
        if self.dtype != torch.float8_e4m3fn:
            return [LayerCache(keys, values) for keys, values in pairs]
        if not scales:
            ones = torch.ones(self.num_kv_heads, device=device)
            scales = [CacheScales(ones, ones)] * len(pairs)
        return [
            LayerCache(keys, values, layer.keys, layer.values)
            for (keys, values), layer in zip(pairs, scales, strict=True)
        ]


def cache_geometry(
    architecture: Architecture, block_size: int, dtype: torch.dtype, step_tokens: int
) -> CacheGeometry:
    """The shape of a model's cache.

    Args:
        block_size: tokens in a block.
        dtype: of the keys and values that are kept.
        step_tokens: most tokens in one step.
    """
    return CacheGeometry(
        groups=architecture.kv_groups,
        num_kv_heads=architecture.num_kv_heads,
        head_dim=architecture.head_dim,
        block_size=block_size,
        dtype=dtype,
        step_tokens=step_tokens,
    )


def num_cache_blocks(geometry: CacheGeometry, budget: int, max_model_len: int, max_running: int) -> int:
    """Blocks that fit into `budget` bytes, but no more than all running sequences can ever fill.

    Raises:
        ModelError: not even one sequence of `max_model_len` tokens fits.
    """
    per_sequence = geometry.most_blocks(max_model_len)
    fitting = budget // geometry.block_bytes
    if fitting < per_sequence:
        longest = geometry.longest_sequence(fitting, max_model_len)
        lower = f"lower --max-model-len to {longest} or less, or " if longest else ""
        raise ModelError(
            f"a context of {max_model_len} tokens needs a KV cache of "
            f"{_mib(per_sequence * geometry.block_bytes)}, but there are {_mib(budget)} for it: "
            f"{lower}raise --kv-cache-memory or --gpu-memory-utilization"
        )
    return min(fitting, per_sequence * max_running)


def host_budget(geometry: CacheGeometry, max_model_len: int, mapped_weights: int) -> int:
    """Bytes for a cache in host memory: a modest share of what is free, or one full context if that is more.

    Args:
        mapped_weights: bytes of weights that are read from the page cache, which counts as free.
    """
    free = max(0, available_host_memory() - mapped_weights)
    one_context = geometry.most_blocks(max_model_len) * geometry.block_bytes
    return max(int(free * HOST_SHARE), min(one_context, int(free * HOST_LIMIT)))


def check_weights_fit(needed: int) -> None:
    """
    Raises:
        ModelError: this process can allocate less than `needed` bytes.
    """
    available = available_host_memory()
    if needed > available:
        raise ModelError(
            f"the model's weights need {_mib(needed)} of memory, but this process can have {_mib(available)}"
            ": give it more, or choose --quantization int8 or int4"
        )


def check_positions_fit(num_positions: int, head_dim: int) -> None:
    """
    Raises:
        ModelError: the rotary table of so many positions does not fit into host memory.
    """
    needed, available = num_positions * head_dim * torch.float32.itemsize, available_host_memory()
    if needed > available:
        raise ModelError(
            f"a context of {num_positions} tokens needs tables of {_mib(needed)} for its positions, but this "
            f"process can have {_mib(available)}: lower --max-model-len"
        )


def available_host_memory() -> int:
    """Bytes that this process can still allocate: the machine's, or what its control group leaves of them."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            available = min(available, int(Path(limit).read_text()) - int(Path(usage).read_text()))
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    return max(0, available)


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB"
