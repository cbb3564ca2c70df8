"""Logits agree with transformers within 1e-4 in float32, at every position of a hand-made batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.checkpoints import write_checkpoint
from tests.engine.driver import ignore_progress
from tests.engine.models.sequence import chunk_of_sequence
from tokenwire_engine.distributed.shard import Shard
from tokenwire_engine.models.decoder import load_decoder
from tokenwire_engine.models.families.registry import read_architecture
from tokenwire_engine.runner.memory import cache_geometry
from tokenwire_engine.weights.checkpoint import open_checkpoint, stored_tensors
from tokenwire_engine.weights.reader import WeightReader
from tokenwire_kernels import select_kernels

CPU = torch.device("cpu")
BLOCK_SIZE = 16

SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
}


def engine_logits(directory: Path, token_ids: list[int]) -> Tensor:
    """Logits `[num_tokens, vocab_size]` of one sequence, computed as one chunk."""
    checkpoint = open_checkpoint(directory)
    _, architecture = read_architecture(checkpoint.config)
    reader = WeightReader(stored_tensors(checkpoint.weight_files()), CPU, torch.float32, ignore_progress)
    length = len(token_ids)
    decoder = load_decoder(reader, architecture, length, select_kernels(CPU), Shard())
    geometry = cache_geometry(architecture, BLOCK_SIZE, torch.float32, length)
    batch = chunk_of_sequence(token_ids, 0, geometry, length)
    caches = geometry.allocate(geometry.blocks_for(length), CPU)
    return decoder.logits(decoder.forward(batch, caches))


def assert_logits_agree(directory: Path) -> None:
    token_ids = torch.randint(3, 320, (150,), generator=torch.Generator().manual_seed(0))
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.inference_mode():
        expected = model(token_ids[None]).logits[0]
    torch.testing.assert_close(engine_logits(directory, token_ids.tolist()), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_logits_agree_for_every_family(family: str, tmp_path: Path) -> None:
    windows = {"sliding_window": 40} if family == "mistral" else {}
    assert_logits_agree(write_checkpoint(tmp_path, family, **windows))


def test_logits_agree_where_layers_see_unequally_far(tmp_path: Path) -> None:
    windows = {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 2}
    assert_logits_agree(write_checkpoint(tmp_path, "qwen2", num_hidden_layers=5, **windows))


@pytest.mark.parametrize("name", SCALINGS)
def test_logits_agree_for_every_rotary_scaling(name: str, tmp_path: Path) -> None:
    parameters = {"rope_theta": 10000.0} | SCALINGS[name]
    assert_logits_agree(write_checkpoint(tmp_path, "llama", rope_parameters=parameters))
