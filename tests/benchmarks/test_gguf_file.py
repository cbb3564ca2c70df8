"""A checkpoint's GGUF file, read back with the `gguf` package's reader."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks.peers import gguf_file
from tests.checkpoints import write_checkpoint

SIZES = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}


def read(path: Path) -> dict[str, np.ndarray]:
    """Every tensor, as float32."""
    return {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type)
        for tensor in gguf.GGUFReader(path).tensors
    }


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize(
    ("precision", "error"), [("f16", 1e-3), ("bf16", 1e-2), ("q8_0", 1e-2), ("q4_0", 0.15)]
)
def test_every_tensor_keeps_its_values_within_the_precision(
    family: str, precision: str, error: float, tmp_path: Path
) -> None:
    model = write_checkpoint(tmp_path / "model", family, **SIZES)
    gguf_file.write(model, precision, tmp_path / "model.gguf")
    original = load_file(model / "model.safetensors")
    written = read(tmp_path / "model.gguf")
    assert len(written) == len(original)
    for ours, theirs in (
        ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
        ("model.layers.2.self_attn.v_proj.weight", "blk.2.attn_v.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ):
        largest = np.abs(original[ours]).max()
        np.testing.assert_allclose(written[theirs], original[ours], atol=error * largest)


def test_rotary_pairs_of_llama_become_neighbours(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model", "llama", **SIZES)
    gguf_file.write(model, "f16", tmp_path / "model.gguf")
    q = load_file(model / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    written = read(tmp_path / "model.gguf")["blk.0.attn_q.weight"]
    head_dim = q.shape[0] // 4
    second_head = q[head_dim : 2 * head_dim]
    np.testing.assert_allclose(written[head_dim], second_head[0], atol=1e-3)
    np.testing.assert_allclose(written[head_dim + 1], second_head[head_dim // 2], atol=1e-3)
    np.testing.assert_allclose(written[head_dim + 2], second_head[1], atol=1e-3)


def test_qwen3_heads_keep_their_order(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model", "qwen3", **SIZES)
    gguf_file.write(model, "f16", tmp_path / "model.gguf")
    original = load_file(model / "model.safetensors")
    written = read(tmp_path / "model.gguf")
    np.testing.assert_allclose(
        written["blk.0.attn_k.weight"], original["model.layers.0.self_attn.k_proj.weight"], atol=1e-3
    )
    np.testing.assert_array_equal(
        written["blk.0.attn_q_norm.weight"], original["model.layers.0.self_attn.q_norm.weight"]
    )


def test_a_family_that_it_does_not_know_is_refused_by_name(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model", "qwen2")
    with pytest.raises(ValueError, match="'qwen2'; expected llama or qwen3"):
        gguf_file.write(model, "f16", tmp_path / "model.gguf")
