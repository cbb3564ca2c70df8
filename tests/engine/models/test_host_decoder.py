"""The decoder of native kernels computes what the layers do, whatever format its weights are in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import FAMILIES, write_checkpoint
from tests.engine.models.decoders import NUM_POSITIONS, load_decoder_on_cpu, logits_of
from tests.kernels.native import native_instruction_sets
from tokenwire_engine.models.host_decoder import HostDecoder

pytestmark = pytest.mark.skipif(not native_instruction_sets(), reason="the native kernels were not compiled")


def token_ids(count: int) -> list[int]:
    return torch.randint(3, 320, (count,), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.mark.parametrize("instruction_set", native_instruction_sets())
@pytest.mark.parametrize("family", FAMILIES)
def test_every_instruction_set_computes_what_the_layers_do(
    family: str, instruction_set: str, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"sliding_window": 20} if family == "mistral" else {}
    if family == "llama":
        changes = {"attention_bias": True, "mlp_bias": True, "intermediate_size": 90}
    if family == "qwen2":
        changes = {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}
    directory = write_checkpoint(tmp_path, family, **changes)
    steps = [token_ids(45), [7], [8]]
    expected = logits_of(load_decoder_on_cpu(directory, "torch"), steps)
    actual = logits_of(load_decoder_on_cpu(directory, instruction_set), steps)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "quantization", "limit"),
    [
        (torch.bfloat16, None, 0.02),
        (torch.float16, None, 0.004),
        (torch.bfloat16, "int8", 0.1),
        (torch.float32, "int4", 0.5),
    ],
)
def test_a_smaller_format_costs_no_more_than_its_error(
    dtype: torch.dtype, quantization: str | None, limit: float, tmp_path: Path
) -> None:
    directory = write_checkpoint(tmp_path, "qwen3")
    steps = [token_ids(60)]
    expected = logits_of(load_decoder_on_cpu(directory, "torch"), steps)
    error = logits_of(load_decoder_on_cpu(directory, None, dtype, quantization), steps) - expected
    assert error.norm() / expected.norm() < limit


@pytest.mark.parametrize("instruction_set", native_instruction_sets())
@pytest.mark.parametrize(
    ("dtype", "quantization", "cached"),
    [
        (torch.float32, None, None),
        (torch.bfloat16, None, None),
        (torch.float16, None, None),
        (torch.bfloat16, "int8", None),
        (torch.bfloat16, "int4", None),
        (torch.bfloat16, None, torch.int8),
    ],
)
@pytest.mark.parametrize("window", [0, 7, 300])
def test_a_token_computed_alone_is_to_the_last_bit_what_it_is_within_a_prompt(
    window: int,
    dtype: torch.dtype,
    quantization: str | None,
    cached: torch.dtype | None,
    instruction_set: str,
    tmp_path: Path,
) -> None:
    """Whatever the pieces of a prompt, and however long its past: parts of attention are 256 keys long."""
    windows = {"sliding_window": window} if window else {}
    family = "mistral" if window else "qwen3"
    directory = write_checkpoint(tmp_path, family, max_position_embeddings=NUM_POSITIONS, **windows)
    loaded = load_decoder_on_cpu(directory, instruction_set, dtype, quantization, cached)
    tokens = token_ids(530)
    whole = logits_of(loaded, [tokens])
    alone = [[token] for token in tokens]
    for steps in (
        [tokens[:20], tokens[20:43], *alone[43:]],
        [*alone[:270], tokens[270:500], *alone[500:]],
        [tokens[:250], tokens[250:263], tokens[263:513], tokens[513:]],
    ):
        assert torch.equal(logits_of(loaded, steps), whole)


def test_a_long_context_is_attended_in_parts(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, max_position_embeddings=NUM_POSITIONS)
    steps = [token_ids(570), [5]]
    expected = logits_of(load_decoder_on_cpu(directory, "torch"), steps)
    torch.testing.assert_close(logits_of(load_decoder_on_cpu(directory), steps), expected, atol=1e-4, rtol=0)


def test_the_checkpoint_stays_mapped_beside_the_packed_weights(tmp_path: Path) -> None:
    decoder, _ = load_decoder_on_cpu(write_checkpoint(tmp_path, dtype="bfloat16"))
    assert isinstance(decoder, HostDecoder)
    assert decoder.embedding.weight.dtype == torch.bfloat16


def test_a_token_outside_the_vocabulary_is_refused(tmp_path: Path) -> None:
    loaded = load_decoder_on_cpu(write_checkpoint(tmp_path))
    with pytest.raises(IndexError, match="token id 320 is outside the vocabulary of 320"):
        logits_of(loaded, [[5, 320]])
