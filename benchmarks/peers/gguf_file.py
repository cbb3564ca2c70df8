"""A Hugging Face checkpoint as the GGUF file that llama.cpp reads, in the precision asked for.

Matrices take the precision (as llama.cpp's own converter calls it); norms and biases stay float32. There is
no tokenizer in it: the benchmarks send token ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors import safe_open

PRECISIONS = {
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}
CACHE = Path("build/bench-models")


@dataclass(slots=True, frozen=True)
class _Family:
    """How GGUF knows a family of checkpoints."""

    architecture: gguf.MODEL_ARCH
    pairs_interleaved: bool
    """Whether rotary pairs are neighbours in a query and key head; in the checkpoint they are half a head
    apart."""


_FAMILIES = {
    "llama": _Family(gguf.MODEL_ARCH.LLAMA, pairs_interleaved=True),
    "qwen3": _Family(gguf.MODEL_ARCH.QWEN3, pairs_interleaved=False),
}


def converted(model: Path, precision: str) -> Path:
    """The checkpoint's GGUF file in that precision, written on first use and when the checkpoint changed."""
    place = hashlib.sha256(str(model.resolve()).encode()).hexdigest()[:8]
    path = CACHE / f"{model.name}-{place}-{precision}.gguf"
    newest = max(file.stat().st_mtime for file in model.iterdir())
    if not path.exists() or path.stat().st_mtime < newest:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        write(model, precision, partial)
        partial.rename(path)
    return path


def write(model: Path, precision: str, path: Path) -> None:
    """Write the checkpoint in directory `model` to `path`.

    Raises:
        ValueError: the family, or its rotary scaling, has no counterpart here.
    """
    config = json.loads((model / "config.json").read_text())
    if config["model_type"] not in _FAMILIES:
        raise ValueError(f"model_type is {config['model_type']!r}; expected {' or '.join(_FAMILIES)}")
    family = _FAMILIES[config["model_type"]]
    matrix_type, file_type = PRECISIONS[precision]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[family.architecture])
    writer.add_file_type(file_type)
    _add_sizes(writer, config)
    names = gguf.get_tensor_name_map(family.architecture, config["num_hidden_layers"])
    for name, tensor in _tensors(model):
        if family.pairs_interleaved and ".self_attn.q_proj." in name:
            tensor = interleave_pairs(tensor, config["num_attention_heads"])
        if family.pairs_interleaved and ".self_attn.k_proj." in name:
            tensor = interleave_pairs(tensor, config["num_key_value_heads"])
        translated = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if translated is None:
            raise ValueError(f"{name} has no place in a GGUF file of {config['model_type']}")
        tensor_type = matrix_type if tensor.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(translated, gguf.quantize(tensor, tensor_type), raw_dtype=tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def interleave_pairs(projection: np.ndarray, num_heads: int) -> np.ndarray:
    """Reorder the rows of each head from (first halves, second halves) to (first, second, first, ...).

    Args:
        projection: `[num_heads * head_dim, ...]`.
    """
    halves = projection.reshape(num_heads, 2, -1, *projection.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(projection.shape)


def _add_sizes(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"rotary scaling {rope['rope_type']!r} is not written to GGUF here")
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope.get("rope_theta") or config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")


def _tensors(model: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of the checkpoint, as float32; the output head only where it is not the embedding."""
    tied = json.loads((model / "config.json").read_text()).get("tie_word_embeddings", False)
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - the file has no iterator
                if not (tied and name == "lm_head.weight"):
                    yield name, tensors.get_tensor(name).to(torch.float32).numpy()
