"""Checkpoints with random weights at true sizes, so that speed can be measured without downloading a model.

A shape's checkpoint is written once, as a Hugging Face directory that every peer can load.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

CACHE = Path("build/bench-models")
DEMO = Path(__file__).parent.parent / "models" / "demo" / "checkpoint"


@dataclass(slots=True, frozen=True)
class Shape:
    """Sizes of a dense decoder whose output head is its embedding."""

    family: str
    """`llama`, or `qwen3`, which normalizes its query and key heads."""
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    vocab_size: int
    head_dim: int
    rope_theta: float = 10000.0
    max_positions: int = 8192


SHAPES = {
    "llama-135m": Shape("llama", 576, 30, 9, 3, 1536, 49152, head_dim=64),
    "llama-10m": Shape("llama", 256, 6, 8, 4, 704, 8192, head_dim=32),
    "qwen3-0.6b": Shape("qwen3", 1024, 28, 16, 8, 3072, 151936, head_dim=128, rope_theta=1e6),
    "qwen3-10m": Shape("qwen3", 256, 6, 8, 4, 704, 8192, head_dim=32),
}


def checkpoint(name: str, dtype: torch.dtype = torch.float32) -> Path:
    """Directory of the named shape's checkpoint, written on first use.

    Raises:
        KeyError: the shape is unknown.
    """
    shape = SHAPES[name]
    directory = CACHE / f"{name}-{str(dtype).removeprefix('torch.')}"
    if not (directory / "config.json").exists():
        directory.mkdir(parents=True, exist_ok=True)
        save_file(_random_weights(shape, dtype), directory / "model.safetensors", metadata={"format": "pt"})
        (directory / "config.json").write_text(json.dumps(_config(shape, dtype), indent=2))
    return directory.resolve()


def model_path(name: str) -> Path:
    """Directory of the checkpoint that a command line names: `demo`, a shape, or a directory itself."""
    if name == "demo":
        return DEMO
    return checkpoint(name) if name in SHAPES else Path(name).resolve()


def weights_read_per_token(model: Path) -> int:
    """Weights of a checkpoint that a decoding step reads: all but an embedding that is not also the head."""
    tied = json.loads((model / "config.json").read_text()).get("tie_word_embeddings", False)
    skipped = "lm_head" if tied else "embed_tokens"
    total = 0
    for file in model.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - the file has no iterator
                if skipped not in name:
                    total += math.prod(tensors.get_slice(name).get_shape())
    return total


def _config(shape: Shape, dtype: torch.dtype) -> dict[str, object]:
    return {
        "architectures": [f"{shape.family.capitalize()}ForCausalLM"],
        "model_type": shape.family,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate_size,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.max_positions,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def _random_weights(shape: Shape, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) / math.sqrt(columns)).to(dtype)

    hidden, head_dim = shape.hidden_size, shape.head_dim
    weights = {
        "model.embed_tokens.weight": normal(shape.vocab_size, hidden),
        "model.norm.weight": torch.ones(hidden, dtype=dtype),
    }
    for layer in range(shape.num_layers):
        prefix = f"model.layers.{layer}."
        weights |= {
            prefix + "input_layernorm.weight": torch.ones(hidden, dtype=dtype),
            prefix + "post_attention_layernorm.weight": torch.ones(hidden, dtype=dtype),
            prefix + "self_attn.q_proj.weight": normal(shape.num_heads * head_dim, hidden),
            prefix + "self_attn.k_proj.weight": normal(shape.num_kv_heads * head_dim, hidden),
            prefix + "self_attn.v_proj.weight": normal(shape.num_kv_heads * head_dim, hidden),
            prefix + "self_attn.o_proj.weight": normal(hidden, shape.num_heads * head_dim),
            prefix + "mlp.gate_proj.weight": normal(shape.intermediate_size, hidden),
            prefix + "mlp.up_proj.weight": normal(shape.intermediate_size, hidden),
            prefix + "mlp.down_proj.weight": normal(hidden, shape.intermediate_size),
        }
        if shape.family == "qwen3":
            weights |= {
                prefix + "self_attn.q_norm.weight": torch.ones(head_dim, dtype=dtype),
                prefix + "self_attn.k_norm.weight": torch.ones(head_dim, dtype=dtype),
            }
    return weights
