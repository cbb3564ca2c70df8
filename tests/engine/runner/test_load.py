"""What a loaded runner says of itself, how its KV cache is sized, and which options are refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints import write_checkpoint
from tests.engine.driver import ignore_progress
from tests.kernels.native import needs_native
from tokenwire_engine.config import EngineConfig
from tokenwire_engine.kv_cache.groups import group_layers
from tokenwire_engine.models.errors import ModelError
from tokenwire_engine.runner import memory
from tokenwire_engine.runner.graphs import Replay
from tokenwire_engine.runner.load import load_runner
from tokenwire_engine.runner.local import LocalRunner
from tokenwire_engine.runner.memory import CacheGeometry, host_budget, num_cache_blocks
from tokenwire_engine.sampling.params import SamplingParams

GEOMETRY = CacheGeometry(
    group_layers([0, 0]), num_kv_heads=4, head_dim=8, block_size=16, dtype=torch.float32, step_tokens=512
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


def load(directory: Path, **options: Any) -> LocalRunner:
    return load_runner(
        EngineConfig(**({"model": str(directory), "device": "cpu"} | options)), ignore_progress
    )


def test_the_runner_describes_its_model(directory: Path) -> None:
    info = load(directory, max_running=3, dtype="float32").info
    assert (info.name, info.checkpoint, info.architecture) == ("tiny", directory, "LlamaForCausalLM")
    assert (info.dtype, info.device) == ("float32", "cpu")
    assert (info.vocab_size, info.max_model_len, info.eos_token_ids) == (320, 256, (2,))
    assert (info.block_size, info.num_blocks, info.max_step_tokens) == (16, 3 * 256 // 16, 512)
    assert info.num_parameters == 133_568
    assert info.default_sampling == SamplingParams()


def test_the_recommended_sampling_is_the_checkpoints(directory: Path) -> None:
    file = directory / "generation_config.json"
    before = file.read_text()
    file.write_text(json.dumps({"temperature": 0.6, "top_k": 20, "top_p": 0.95, "do_sample": True}))
    assert load(directory).info.default_sampling == SamplingParams(temperature=0.6, top_k=20, top_p=0.95)
    file.write_text('{"top_p": 3}')
    with pytest.raises(ModelError, match=r"generation_config\.json has top_p = 3"):
        load(directory)
    file.write_text(before)


def test_a_token_beyond_the_vocabulary_ends_no_generation(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "model")
    (directory / "generation_config.json").write_text('{"eos_token_id": [2, 320, 99999]}')
    assert load(directory).info.eos_token_ids == (2,)


def test_the_whole_start_reports_its_phases(directory: Path) -> None:
    phases: list[str] = []
    load_runner(
        EngineConfig(model=str(directory), device="cpu"), lambda phase, fraction=None: phases.append(phase)
    )
    assert list(dict.fromkeys(phases)) == ["finding the model", "loading weights", "allocating the KV cache"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@needs_native
def test_a_16_bit_format_needs_native_kernels_on_a_cpu(dtype: str, directory: Path) -> None:
    assert load(directory, dtype=dtype).info.dtype == dtype
    with pytest.raises(ModelError, match=f"--dtype is {dtype}, which needs the native CPU kernels"):
        load(directory, dtype=dtype, cpu_instruction_set="torch")


@needs_native
def test_auto_is_bfloat16_with_native_kernels_and_float32_without(directory: Path) -> None:
    assert load(directory).info.dtype == "bfloat16"
    assert load(directory, cpu_instruction_set="portable").info.dtype == "float32"
    assert load(directory, cpu_instruction_set="torch").info.dtype == "float32"


@needs_native
def test_an_instruction_set_that_is_not_there_is_refused(directory: Path) -> None:
    with pytest.raises(ModelError, match="--cpu-instruction-set is mmx, but there are no kernels for mmx"):
        load(directory, cpu_instruction_set="mmx")


def test_quantization_needs_native_kernels(directory: Path) -> None:
    with pytest.raises(ModelError, match="--quantization is int8, for which there are kernels on a CPU only"):
        load(directory, quantization="int8", cpu_instruction_set="torch")


@needs_native
def test_weights_that_do_not_fit_are_refused_with_both_numbers(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_host_memory", lambda: 100 << 10)
    numbers = r"weights need 0\.4 MiB of memory, but this process can have 0\.1 MiB"
    with pytest.raises(ModelError, match=numbers):
        load(directory, dtype="float32")


def test_a_context_whose_positions_do_not_fit_is_refused(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1 << 40}))
    with pytest.raises(ModelError, match=r"tables of 67108864\.0 MiB for its positions.*--max-model-len"):
        load(directory)
    assert load(directory, max_model_len=64).info.max_model_len == 64


def write_broken_checkpoint(directory: Path, value: float) -> Path:
    """A checkpoint whose second layer has one weight with this value."""
    write_checkpoint(directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory


def test_weights_that_are_no_numbers_are_noticed_before_anybody_is_served(tmp_path: Path) -> None:
    runner = load(write_broken_checkpoint(tmp_path / "model", math.nan))
    with pytest.raises(ModelError, match="logits are not finite"):
        runner.warm_up()


@needs_native
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_weights_that_are_no_numbers_are_not_quantized(
    quantization: str, value: float, tmp_path: Path
) -> None:
    directory = write_broken_checkpoint(tmp_path / "model", value)
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN or infinity"):
        load(directory, quantization=quantization)


@needs_native
def test_weights_whose_sum_is_beyond_their_dtype_are_quantized(tmp_path: Path) -> None:
    directory = write_broken_checkpoint(tmp_path / "model", 65504.0)
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][:2] = 65504.0
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    load(directory, dtype="float16", quantization="int8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(directory: Path) -> None:
    with pytest.raises(ModelError, match="--device is cuda, but there are 0 CUDA devices"):
        load(directory, device="cuda")


def test_a_context_beyond_the_models_is_refused(directory: Path) -> None:
    assert load(directory, max_model_len=100).info.max_model_len == 100
    with pytest.raises(ModelError, match="--max-model-len is 257, but the model's own limit is 256 tokens"):
        load(directory, max_model_len=257)


def test_a_cache_too_small_for_one_context_is_refused_with_both_sizes(directory: Path) -> None:
    # 3 layers x keys and values x 2 heads x 16 dimensions x 4 bytes = 768 bytes a token.
    with pytest.raises(
        ModelError,
        match=r"a context of 256 tokens needs a KV cache of 0.2 MiB, but there are 0.1 MiB for it: "
        r"lower --max-model-len to 80 or less, or raise --kv-cache-memory",
    ):
        load(directory, dtype="float32", kv_cache_memory=80 * 768)
    assert load(directory, dtype="float32", kv_cache_memory=256 * 768).info.num_blocks == 16


def test_the_cache_is_no_larger_than_all_running_sequences_can_fill() -> None:
    assert GEOMETRY.block_bytes == 2 * 2 * 4 * 16 * 8 * 4
    assert num_cache_blocks(GEOMETRY, 2**40, max_model_len=100, max_running=3) == 3 * 7
    assert num_cache_blocks(GEOMETRY, 10 * GEOMETRY.block_bytes, max_model_len=100, max_running=3) == 10


def test_a_host_gives_a_modest_share_or_one_context_if_that_is_more(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 1000 * GEOMETRY.block_bytes
    monkeypatch.setattr("tokenwire_engine.runner.memory.available_host_memory", lambda: free)
    assert host_budget(GEOMETRY, max_model_len=16, mapped_weights=0) == free // 4
    assert host_budget(GEOMETRY, max_model_len=16 * 500, mapped_weights=0) == free // 2
    assert host_budget(GEOMETRY, max_model_len=16 * 5000, mapped_weights=0) == int(free * 0.8)
    assert host_budget(GEOMETRY, max_model_len=16, mapped_weights=2 * free) == 0


OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.25 GiB. GPU 0 has a total capacity of 79.11 GiB of which "
    "512.00 MiB is free. Including non-PyTorch memory, this process has 78.60 GiB memory in use."
)


def test_no_memory_for_graphs_is_one_line_with_both_amounts_and_the_options(directory: Path) -> None:
    def fail(work: Callable[[], None]) -> Replay:
        raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    with pytest.raises(
        ModelError,
        match=r"^out of GPU memory while capturing CUDA graphs: 2\.25 GiB was asked for, 512\.00 MiB was "
        r"free; lower --gpu-memory-utilization or --max-running, or start with --no-cuda-graphs$",
    ):
        load_runner(EngineConfig(model=str(directory), device="cpu"), ignore_progress, fail)


def test_no_memory_for_the_cache_is_one_line_too(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> None:
        raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    monkeypatch.setattr(CacheGeometry, "allocate", fail)
    with pytest.raises(ModelError, match=r"lower --gpu-memory-utilization or --kv-cache-memory$"):
        load(directory)
