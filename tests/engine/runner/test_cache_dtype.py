"""Keys and values in a format of their own: what it costs in memory, and that hardly a token changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from tests.checkpoints import DEMO, write_checkpoint
from tests.engine.driver import GREEDY, generate
from tests.engine.runner.loading import Recorder, load_on_cpu
from tests.engine.runner.serving import PLAIN, requests_with, serve
from tests.gpu.margins import agreed, choices
from tests.kernels.native import needs_native
from tokenwire_engine.config import EngineConfig
from tokenwire_engine.models.errors import ModelError
from tokenwire_engine.runner.local import LocalRunner
from tokenwire_engine.runner.memory import CacheGeometry
from tokenwire_engine.scheduler.request import Request
from tokenwire_kernels import LayerCache

ERROR = {"float16": 0.02, "bfloat16": 0.3, "fp8": 2.0, "int8": 0.3}
"""How far the lead of a token over the next may change, by the cache's format: what was seen, and more."""
QUESTIONS = [
    "What is the capital of France?",
    "Add 12 and 30.",
    "Once upon a time there was a small fox",
    "Rewrite in upper case: hello world",
    "Tell me a story about a ship and a storm at sea.",
    "Which animal barks?",
]
NUM_TOKENS = 40


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model")


def load(directory: Path, kv_cache_dtype: str = "auto", recorder: Recorder | None = None, **options: Any):
    options = {"kv_cache_dtype": kv_cache_dtype, "cpu_instruction_set": "torch"} | options
    return load_on_cpu(directory, recorder, **options)


def compare(expected: LocalRunner, actual: LocalRunner, error: float) -> float:
    """The share of the demo model's greedy tokens that were compared, up to each answer's first difference,
    where the choice was unclear."""
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    prompts = [tokenizer.encode(question).ids for question in QUESTIONS]
    tokens = [choices(runner, prompts, NUM_TOKENS) for runner in (expected, actual)]
    return agreed(*tokens, error) / (len(prompts) * NUM_TOKENS)


@pytest.mark.parametrize("kv_cache_dtype", ["float16", "bfloat16", "fp8", "int8"])
def test_tokens_are_those_of_a_float32_cache_wherever_they_were_sure(kv_cache_dtype: str) -> None:
    share = compare(load(DEMO), load(DEMO, kv_cache_dtype), ERROR[kv_cache_dtype])
    assert share > 0.5


@pytest.mark.parametrize("kv_cache_dtype", ["float32", "float16", "bfloat16", "int8"])
@needs_native
def test_native_kernels_keep_the_cache_in_any_format_but_fp8(kv_cache_dtype: str) -> None:
    native = {"cpu_instruction_set": None}
    cached = load(DEMO, kv_cache_dtype, dtype="bfloat16", **native)
    assert (cached.info.dtype, cached.info.kv_cache_dtype) == ("bfloat16", kv_cache_dtype)
    assert compare(load(DEMO, **native), cached, error=1.0) > 0.5


@needs_native
def test_native_kernels_refuse_fp8_in_one_line(directory: Path) -> None:
    with pytest.raises(
        ModelError,
        match=r"^--kv-cache-dtype is fp8, which the native CPU kernels do not read; choose int8, or "
        r"--cpu-instruction-set torch, which is slower$",
    ):
        load(directory, "fp8", cpu_instruction_set=None)


def test_an_older_gpu_is_refused_in_one_line(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenwire_engine.runner.device import choose_cache_dtype
    from tokenwire_kernels import select_kernels

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    config = EngineConfig(kv_cache_dtype="fp8")
    kernels = select_kernels(torch.device("cpu"), "torch")
    cuda = torch.device("cuda", 0)
    with pytest.raises(ModelError, match=r"compute capability 8\.9 or newer; NVIDIA A100 has 8\.0"):
        choose_cache_dtype(config, torch.bfloat16, cuda, kernels)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert choose_cache_dtype(config, torch.bfloat16, cuda, kernels) == torch.float8_e4m3fn
    with pytest.raises(ModelError, match=r"^--kv-cache-dtype is int8, which the GPU kernels do not read"):
        choose_cache_dtype(EngineConfig(kv_cache_dtype="int8"), torch.bfloat16, cuda, kernels)


def test_the_same_memory_holds_more_tokens_than_of_float32(directory: Path) -> None:
    memory = 16 * 16 * 768  # 768 bytes a token in float32: 12 heads of 16 numbers
    blocks = {
        name: load(directory, name, kv_cache_memory=memory).info.num_blocks
        for name in ("auto", "fp8", "int8")
    }
    assert blocks == {"auto": 16, "fp8": 64, "int8": 16 * 64 // 20}


@pytest.mark.parametrize("overlap", [False, True])
def test_replayed_steps_yield_the_tokens_of_eager_ones(directory: Path, overlap: bool) -> None:
    expected, _ = serve(load(directory, "fp8"), requests_with(PLAIN), overlap=overlap)
    recorder = Recorder()
    replayed, _ = serve(load(directory, "fp8", recorder), requests_with(PLAIN), overlap=overlap)
    assert recorder.num_replays > 0
    assert replayed == expected


@pytest.mark.parametrize(("kv_cache_dtype", "head_bytes"), [("fp8", 16), ("int8", 20)])
def test_blocks_go_to_the_host_and_come_back(directory: Path, kv_cache_dtype: str, head_bytes: int) -> None:
    """A pool too small for the load gives the tokens of one that is not."""
    common = torch.randint(3, 320, (50,), generator=torch.Generator().manual_seed(1)).tolist()

    def requests() -> list[Request]:
        return [Request(str(n), common[: 40 + n] + [n] * n, replace(GREEDY, seed=n), 70) for n in range(8)]

    expected, _ = serve(load(directory, kv_cache_dtype), requests())
    block_bytes = 16 * 12 * head_bytes
    small = load(
        directory, kv_cache_dtype, kv_cache_memory=16 * block_bytes, host_cache_memory=40 * block_bytes,
        max_step_tokens=40,
    )  # fmt: skip
    assert (small.info.num_blocks, small.info.num_host_blocks) == (16, 40)
    squeezed, scheduler = serve(small, [*requests(), Request("late", common, GREEDY, 70)], True, overlap=True)
    assert {n: squeezed[n] for n in expected} == expected
    assert scheduler.counters.preemptions > 0
    assert scheduler.counters.host_hit_blocks > 0


@pytest.mark.parametrize("kv_cache_dtype", ["fp8", "int8"])
def test_layers_of_different_windows_share_blocks(tmp_path: Path, kv_cache_dtype: str) -> None:
    directory = write_checkpoint(
        tmp_path / "model", "qwen2", use_sliding_window=True, sliding_window=20, max_window_layers=1
    )
    runner = load(directory, kv_cache_dtype)
    assert runner.info.windows == (0, 20, 20)
    together = generate(runner, [[5, 6, 7] * 15, [8, 9]], 30)
    assert [generate(runner, [prompt], 30)[0] for prompt in ([5, 6, 7] * 15, [8, 9])] == together


# Scales of a checkpoint.


def calibrated(directory: Path, target: Path, scales: dict[str, Tensor]) -> Path:
    """The same checkpoint with further tensors."""
    target.mkdir()
    weights = load_file(directory / "model.safetensors")
    save_file(weights | scales, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(json.loads((directory / "config.json").read_text())))
    return target


@pytest.fixture
def allocated(monkeypatch: pytest.MonkeyPatch) -> list[LayerCache]:
    """The caches of the runners that are loaded from now on."""
    found: list[LayerCache] = []
    allocate = CacheGeometry.allocate
    monkeypatch.setattr(
        CacheGeometry, "allocate", lambda *given: found.extend(caches := allocate(*given)) or caches
    )
    return found


def test_scales_are_the_checkpoints_of_a_layer_or_of_each_head_else_1(
    directory: Path, tmp_path: Path, allocated: list[LayerCache]
) -> None:
    scales = {
        "model.layers.0.self_attn.k_scale": torch.tensor(0.25),
        "model.layers.0.self_attn.v_scale": torch.tensor([0.5], dtype=torch.bfloat16),
        "model.layers.1.self_attn.k_proj.k_scale": torch.tensor([0.03125, 0.75]),
        "model.layers.1.self_attn.v_proj.v_scale": torch.tensor([2.0]),
    }
    load(calibrated(directory, tmp_path / "calibrated", scales), "fp8")
    found = [(cache.key_scales.tolist(), cache.value_scales.tolist()) for cache in allocated]
    assert found == [([0.25] * 2, [0.5] * 2), ([0.03125, 0.75], [2.0] * 2), ([1.0] * 2, [1.0] * 2)]


def test_what_is_stored_is_divided_by_its_scale_and_multiplied_when_it_is_read(tmp_path: Path) -> None:
    """A power of two moves exponents only: as long as the format's range suffices, it changes nothing."""
    scales = {f"model.layers.{n}.self_attn.{x}_scale": torch.tensor(0.25) for n in range(4) for x in "kv"}
    scaled = load(calibrated(DEMO, tmp_path / "calibrated", scales), "fp8")
    assert compare(load(DEMO, "fp8"), scaled, error=0.1) > 0.9


def test_other_caches_need_no_scales(
    directory: Path, tmp_path: Path, allocated: list[LayerCache], caplog: pytest.LogCaptureFixture
) -> None:
    scales = {"model.layers.0.self_attn.k_scale": torch.tensor(0.25)}
    load(calibrated(directory, tmp_path / "calibrated", scales))
    assert all(cache.key_scales is None for cache in allocated)
    assert caplog.messages == []


@pytest.mark.parametrize("scale", [[0.1, 0.2, 0.3], [0.0], [-1.0], [float("nan")]], ids=str)
def test_scales_that_make_no_sense_are_refused(directory: Path, tmp_path: Path, scale: list[float]) -> None:
    scales = {"model.layers.1.self_attn.v_scale": torch.tensor(scale)}
    broken = calibrated(directory, tmp_path / "calibrated", scales)
    with pytest.raises(
        ModelError, match=r"model\.layers\.1\.self_attn\.v_scale is .*or one for each of 2 KV"
    ):
        load(broken, "fp8")
