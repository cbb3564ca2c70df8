"""Models of true sizes whose weights are random numbers, made where they are used.

Speed depends on shapes, not on values: nothing is downloaded. The configurations are the published ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenwire_engine.distributed.shard import Shard
from tokenwire_engine.models.architecture import Architecture
from tokenwire_engine.models.config_file import ConfigFile
from tokenwire_engine.models.decoder import Decoder, load_decoder
from tokenwire_engine.models.families.registry import read_architecture
from tokenwire_engine.runner.base import ModelInfo
from tokenwire_engine.runner.cuda_graphs import CudaGraphs
from tokenwire_engine.runner.device import CACHE_DTYPES, FP8_CAPABILITY
from tokenwire_engine.runner.graphs import Capture
from tokenwire_engine.runner.local import LocalRunner
from tokenwire_engine.runner.memory import cache_geometry
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.weights.reader import Piece, WeightReader
from tokenwire_kernels import Kernels, LayerCache, select_kernels

BLOCK_SIZE = 16
STEP_TOKENS = 8192
_LLAMA_ROPE = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def _llama(hidden: int, layers: int, inner: int, head_dim: int, factor: float, tied: bool) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256,
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": head_dim, "intermediate_size": inner,
        "max_position_embeddings": 131072, "rope_theta": 500000.0, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "tie_word_embeddings": tied, "rope_scaling": _LLAMA_ROPE | {"factor": factor},
        "bos_token_id": 128000, "eos_token_id": 128001, "dtype": "bfloat16",
    }  # fmt: skip


def _qwen3(hidden: int, layers: int, heads: int, inner: int, tied: bool) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151936,
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": inner,
        "max_position_embeddings": 40960, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "tie_word_embeddings": tied, "bos_token_id": 151643, "eos_token_id": 151645, "dtype": "bfloat16",
    }  # fmt: skip


_TINY = _llama(64, 2, 96, 16, 8.0, True) | {
    "vocab_size": 320, "num_attention_heads": 4, "num_key_value_heads": 2,
    "bos_token_id": 1, "eos_token_id": 2, "dtype": "float32",
}  # fmt: skip
CONFIGS = {
    "Llama-3.1-8B": _llama(4096, 32, 14336, 128, 8.0, tied=False),
    "Llama-3.2-1B": _llama(2048, 16, 8192, 64, 32.0, tied=True),
    "Qwen3-0.6B": _qwen3(1024, 28, 16, 3072, tied=True),
    "Qwen3-8B": _qwen3(4096, 36, 32, 12288, tied=False),
    "tiny": _TINY,
}


class RandomWeights(WeightReader):
    """Gives random parameters of whatever shape is asked for."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__({}, device, dtype, lambda phase, fraction=None: None)
        # On the meta device, where only shapes are computed, there is none.
        self._generator = None if device.type == "meta" else torch.Generator(device).manual_seed(0)

    def read(self, *pieces: Piece) -> Tensor:
        """See `WeightReader.read`. Norms are near 1; rows of matrices keep the size of what they are
        multiplied with."""
        rows = sum(piece.shape[0] for piece in pieces)
        shape = (rows, *pieces[0].shape[1:])
        parameter = torch.empty(shape, dtype=self.dtype, device=self.device)
        if len(shape) == 1:
            return parameter.normal_(1.0, 0.1, generator=self._generator)
        self.num_parameters += parameter.numel()
        return parameter.normal_(0.0, 1 / math.sqrt(shape[1]), generator=self._generator)

    def finish(self, ignored: Sequence[str] = ()) -> None:
        """Every weight that there is was asked for."""


@dataclass(slots=True)
class RandomModel:
    """A decoder and what runners of it need."""

    name: str
    architecture: Architecture
    decoder: Decoder
    kernels: Kernels
    device: torch.device
    dtype: torch.dtype
    cache_dtype: torch.dtype
    max_model_len: int

    @property
    def step_weight_bytes(self) -> int:
        """Bytes of weights that a step reads: all but an embedding that is not the head as well."""
        a = self.architecture
        layer = a.hidden_size * (2 * a.q_size + 2 * a.kv_size + 3 * a.intermediate_size)
        return (a.num_layers * layer + a.vocab_size * a.hidden_size) * self.dtype.itemsize

    @property
    def token_cache_bytes(self) -> int:
        """Bytes of keys and values of one token, over all layers."""
        a = self.architecture
        return 2 * a.num_layers * a.kv_size * self.cache_dtype.itemsize

    @property
    def cache_format(self) -> str:
        """As `--kv-cache-dtype` has it."""
        return next(name for name, dtype in CACHE_DTYPES.items() if dtype == self.cache_dtype)

    def allocate(self, num_blocks: int) -> list[LayerCache]:
        """A KV cache of random numbers."""
        geometry = cache_geometry(self.architecture, BLOCK_SIZE, self.cache_dtype, STEP_TOKENS)
        caches = geometry.allocate(num_blocks, self.device)
        for cache in caches:
            fill_with_random_numbers(cache.keys)
            fill_with_random_numbers(cache.values)
        return caches

    def runner(
        self, caches: list[LayerCache], max_running: int, capture: Capture | None = None
    ) -> LocalRunner:
        """A runner on a cache; with `capture`, steps are captured."""
        info = ModelInfo(
            name=self.name,
            checkpoint=Path(),
            architecture="",
            dtype=str(self.dtype).removeprefix("torch."),
            kv_cache_dtype=self.cache_format,
            device=str(self.device),
            vocab_size=self.architecture.vocab_size,
            max_model_len=self.max_model_len,
            eos_token_ids=(),
            num_parameters=self.step_weight_bytes // self.dtype.itemsize,
            block_size=BLOCK_SIZE,
            num_blocks=len(caches[0].keys),
            max_step_tokens=STEP_TOKENS,
            windows=(0,),
            num_host_blocks=0,
            default_sampling=SamplingParams(),
        )
        return LocalRunner(info, self.decoder, caches, self.kernels, self.device, max_running, capture)

    def capture(self) -> Capture:
        """How steps are captured on the device; on a CPU, they are computed again."""
        if self.device.type == "cuda":
            return CudaGraphs(self.device, self.kernels)
        return lambda work: work


def fill_with_random_numbers(cache: Tensor) -> None:
    """Keys or values; of fp8, of numbers below 2, by their bits: PyTorch draws none."""
    if cache.dtype.itemsize == 1:
        cache.view(torch.uint8).random_(0, 64)
    else:
        cache.normal_()


def random_model(name: str, device: torch.device, max_model_len: int, *, fuses: bool = True) -> RandomModel:
    """One of `CONFIGS` with random weights, and a cache of the same format.

    Args:
        fuses: takes all layers at once where there is a kernel for that.
    """
    config = CONFIGS[name]
    _, architecture = read_architecture(ConfigFile(config))
    dtype = getattr(torch, config["dtype"])
    kernels = select_kernels(device, "torch")
    if not fuses:
        kernels = replace(kernels, fuse_layers=None)
    reader = RandomWeights(device, dtype)
    decoder = load_decoder(reader, architecture, max_model_len, kernels, Shard())
    return RandomModel(name, architecture, decoder, kernels, device, dtype, dtype, max_model_len)


def takes_fp8(device: torch.device) -> bool:
    """Whether a cache on the device may be of fp8."""
    return device.type == "cpu" or torch.cuda.get_device_capability(device) >= FP8_CAPABILITY


def free_bytes(device: torch.device) -> int:
    """Device memory that nothing has; a made-up amount on a CPU, where tiny shapes are measured."""
    if device.type == "cpu":
        return 1 << 24
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]
