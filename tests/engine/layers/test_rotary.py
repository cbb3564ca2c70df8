"""Rotary tables are what transformers multiplies queries and keys with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tokenwire_engine.layers.rotary import rotary_table
from tokenwire_engine.models.architecture import DynamicScaling
from tokenwire_engine.models.config_file import ConfigFile

CPU = torch.device("cpu")
HEAD_DIM = 64
SHAPE: dict[str, Any] = {"hidden_size": 256, "num_attention_heads": 4, "max_position_embeddings": 512}

CONFIGS: dict[str, dict[str, Any]] = {
    "transformers 5": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    "transformers 4": {"rope_theta": 5e5, "rope_scaling": None},
    "nothing said": {},
    "linear": {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.5}},
    "dynamic, within the trained length": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "llama3": {
        "rope_theta": 5e5,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        },
    },
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}},
    "yarn, with all its options": {
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 8.0,
            "original_max_position_embeddings": 64,
            "beta_fast": 16,
            "beta_slow": 2,
            "mscale": 0.7,
            "mscale_all_dim": 0.3,
            "truncate": False,
        }
    },
    "yarn, attention factor given": {
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 128,
            "attention_factor": 1.5,
        }
    },
}


def transformers_table(config: LlamaConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Half of each of transformers' tables: the other half repeats it."""
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), positions[None])
    return cos[0, :, : HEAD_DIM // 2], sin[0, :, : HEAD_DIM // 2]


@pytest.mark.parametrize("name", CONFIGS)
def test_tables_agree_with_transformers(name: str) -> None:
    fields = SHAPE | CONFIGS[name]
    table = rotary_table(ConfigFile(fields).rotary(2048), HEAD_DIM, 512, CPU)
    cos, sin = transformers_table(LlamaConfig(**fields), torch.arange(512))
    torch.testing.assert_close(table.cos, cos, atol=2e-4, rtol=0)
    torch.testing.assert_close(table.sin, sin, atol=2e-4, rtol=0)


def test_dynamic_rows_beyond_the_trained_length_are_those_of_decoding_token_by_token() -> None:
    fields = SHAPE | {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}
    rotary = ConfigFile(fields).rotary(2048)
    assert rotary.scaling == DynamicScaling(2.0)
    table = rotary_table(rotary, HEAD_DIM, 1024, CPU)
    config = LlamaConfig(**fields)
    for position in (511, 512, 513, 700, 1023):
        cos, sin = transformers_table(config, torch.tensor([position]))
        torch.testing.assert_close(table.cos[position], cos[0], atol=2e-4, rtol=0)
        torch.testing.assert_close(table.sin[position], sin[0], atol=2e-4, rtol=0)


def test_tables_are_float32_and_as_long_as_asked() -> None:
    table = rotary_table(ConfigFile(SHAPE).rotary(2048), HEAD_DIM, 7, CPU)
    assert table.cos.shape == table.sin.shape == (7, HEAD_DIM // 2)
    assert table.cos.dtype == torch.float32
