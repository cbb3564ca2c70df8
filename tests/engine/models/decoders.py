"""A decoder without a runner around it, and its logits for one sequence."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tests.engine.driver import ignore_progress
from tests.engine.models.sequence import chunk_of_sequence
from tokenwire_engine.distributed.shard import Shard
from tokenwire_engine.models.decoder import Decoder, load_decoder
from tokenwire_engine.models.families.registry import read_architecture
from tokenwire_engine.runner.memory import CacheGeometry, cache_geometry
from tokenwire_engine.weights.checkpoint import open_checkpoint, stored_tensors
from tokenwire_engine.weights.reader import WeightReader
from tokenwire_kernels import select_kernels

CPU = torch.device("cpu")
NUM_POSITIONS = 600
"""Of the decoder's rotary tables, and of its cache."""


def load_decoder_on_cpu(
    directory: Path,
    instruction_set: str | None = None,
    dtype: torch.dtype = torch.float32,
    quantization: str | None = None,
    cached: torch.dtype | None = None,
) -> tuple[Decoder, CacheGeometry]:
    """A checkpoint's decoder, and the shape of its cache, in the format `cached`."""
    checkpoint = open_checkpoint(directory)
    _, architecture = read_architecture(checkpoint.config)
    reader = WeightReader(stored_tensors(checkpoint.weight_files()), CPU, dtype, ignore_progress)
    kernels = select_kernels(CPU, instruction_set)
    decoder = load_decoder(reader, architecture, NUM_POSITIONS, kernels, Shard(), quantization)
    return decoder, cache_geometry(architecture, 16, cached or dtype, NUM_POSITIONS)


def logits_of(loaded: tuple[Decoder, CacheGeometry], steps: list[list[int]]) -> Tensor:
    """Logits `[tokens, vocab_size]` of one sequence, computed a step at a time."""
    decoder, geometry = loaded
    num_tokens = sum(map(len, steps))
    caches = geometry.allocate(geometry.blocks_for(num_tokens), CPU)
    start, logits = 0, []
    for step in steps:
        batch = chunk_of_sequence(step, start, geometry, num_tokens)
        logits.append(decoder.logits(decoder.forward(batch, caches)))
        start += len(step)
    return torch.cat(logits)
