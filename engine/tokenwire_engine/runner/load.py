"""From an engine's options to a runner with the model loaded: the slow part of a start, in order."""

from __future__ import annotations

import logging

import torch

from tokenwire_engine.config import EngineConfig
from tokenwire_engine.distributed.shard import Shard
from tokenwire_engine.models.architecture import Architecture
from tokenwire_engine.models.decoder import Decoder, load_decoder
from tokenwire_engine.models.errors import ModelError
from tokenwire_engine.models.families.registry import read_architecture
from tokenwire_engine.models.host_decoder import packed_bytes, weight_format
from tokenwire_engine.runner.base import ModelInfo, Progress
from tokenwire_engine.runner.cuda_graphs import CudaGraphs
from tokenwire_engine.runner.device import (
    CACHE_DTYPES,
    choose_cache_dtype,
    choose_device,
    choose_dtype,
    choose_kernels,
)
from tokenwire_engine.runner.forward_graphs import most_pass_tokens
from tokenwire_engine.runner.graphs import Capture
from tokenwire_engine.runner.local import LocalRunner
from tokenwire_engine.runner.memory import (
    CacheGeometry,
    cache_geometry,
    check_positions_fit,
    check_weights_fit,
    host_budget,
    num_cache_blocks,
)
from tokenwire_engine.runner.out_of_memory import (
    FEWER_GRAPHS,
    LESS_WEIGHT,
    SMALLER_CACHE,
    SMALLER_STEP,
    explained,
)
from tokenwire_engine.runner.profile import device_budget
from tokenwire_engine.sampling.defaults import default_sampling
from tokenwire_engine.weights.cache_scales import read_cache_scales
from tokenwire_engine.weights.checkpoint import Checkpoint, open_checkpoint, stored_tensors
from tokenwire_engine.weights.locate import locate
from tokenwire_engine.weights.reader import WeightReader
from tokenwire_kernels import Kernels

logger = logging.getLogger(__name__)

STEP_TOKENS = {"cuda": 8192, "cpu": 512}
"""Default most tokens in one step."""


def load_runner(config: EngineConfig, progress: Progress, capture: Capture | None = None) -> LocalRunner:
    """Find the model, load it, and give the KV cache what memory is left.

    Args:
        capture: how steps are captured. None: as CUDA graphs where there is CUDA, else not at all.

    Raises:
        ModelError: the model cannot be found, read or supported, or does not fit; one line that says which.
    """
    device = choose_device(config.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # of this thread, which is the one that will launch: Triton asks for it
    progress("finding the model")
    located = locate(config.model)
    checkpoint = open_checkpoint(located.directory)
    name, architecture = read_architecture(checkpoint.config)
    kernels = choose_kernels(config, device)
    dtype = choose_dtype(config, checkpoint.config, device, kernels)
    cache_dtype = choose_cache_dtype(config, dtype, device, kernels)
    max_model_len = _max_model_len(config, architecture)
    max_step_tokens = config.max_step_tokens or STEP_TOKENS[device.type]
    if kernels.native is not None:
        check_weights_fit(packed_bytes(architecture, weight_format(dtype, config.quantization)))
    if device.type == "cpu":
        check_positions_fit(max_model_len, architecture.head_dim)

    reader = WeightReader(stored_tensors(checkpoint.weight_files()), device, dtype, progress)
    with explained("loading weights", LESS_WEIGHT):
        scales = read_cache_scales(reader, architecture) if cache_dtype == torch.float8_e4m3fn else []
        decoder = load_decoder(reader, architecture, max_model_len, kernels, Shard(), config.quantization)

    geometry = cache_geometry(architecture, config.block_size, cache_dtype, max_step_tokens)
    budget = config.kv_cache_memory
    if budget is None and device.type == "cpu":
        budget = host_budget(geometry, max_model_len, decoder.embedding.weight.nbytes)
    elif budget is None:
        layer_parameters = reader.num_parameters // architecture.num_layers
        captured_tokens = most_pass_tokens(max_step_tokens, layer_parameters) if config.cuda_graphs else 0
        budget = _device_budget(
            config, decoder, geometry, kernels, device, max_step_tokens, captured_tokens, progress
        )
    progress("allocating the KV cache")
    num_blocks = num_cache_blocks(geometry, budget, max_model_len, config.max_running)
    host_tier_bytes = (config.host_cache_memory or 0) if config.prefix_cache else 0
    info = ModelInfo(
        name=located.name,
        checkpoint=located.directory,
        architecture=name,
        dtype=str(dtype).removeprefix("torch."),
        kv_cache_dtype=next(name for name, stored in CACHE_DTYPES.items() if stored == cache_dtype),
        device=str(device),
        vocab_size=architecture.vocab_size,
        max_model_len=max_model_len,
        eos_token_ids=_eos_token_ids(checkpoint, architecture.vocab_size),
        num_parameters=reader.num_parameters,
        block_size=config.block_size,
        num_blocks=num_blocks,
        max_step_tokens=max_step_tokens,
        windows=tuple(group.window for group in architecture.kv_groups),
        num_host_blocks=host_tier_bytes // geometry.block_bytes,
        default_sampling=default_sampling(checkpoint.generation_config),
    )
    with explained("allocating the KV cache", SMALLER_CACHE):
        caches = geometry.allocate(num_blocks, device, scales)
    if not config.cuda_graphs:
        capture = None
    elif capture is None and device.type == "cuda":
        progress("capturing CUDA graphs")
        capture = CudaGraphs(device, kernels)
    with explained("capturing CUDA graphs", FEWER_GRAPHS):
        runner = LocalRunner(info, decoder, caches, kernels, device, config.max_running, capture)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the capture's first runs left on their stream
    return runner


def _device_budget(
    config: EngineConfig,
    decoder: Decoder,
    geometry: CacheGeometry,
    kernels: Kernels,
    device: torch.device,
    max_step_tokens: int,
    captured_tokens: int,
    progress: Progress,
) -> int:
    """Bytes for the cache on a device: what weights and steps leave of the share that is ours."""
    progress("sizing the KV cache")
    with explained("sizing the KV cache", SMALLER_STEP):
        return device_budget(
            decoder,
            geometry,
            kernels,
            device,
            config.gpu_memory_utilization,
            max_step_tokens,
            config.max_running,
            captured_tokens,
        )


def _eos_token_ids(checkpoint: Checkpoint, vocab_size: int) -> tuple[int, ...]:
    """Those that the model can produce."""
    token_ids = checkpoint.eos_token_ids()
    if beyond := [token_id for token_id in token_ids if token_id >= vocab_size]:
        logger.warning("eos_token_id names tokens beyond the vocabulary of %d: %s", vocab_size, beyond)
    return tuple(token_id for token_id in token_ids if token_id < vocab_size)


def _max_model_len(config: EngineConfig, architecture: Architecture) -> int:
    limit = architecture.rotary.context_length
    if config.max_model_len is not None and config.max_model_len > limit:
        raise ModelError(
            f"--max-model-len is {config.max_model_len}, but the model's own limit is {limit} tokens"
        )
    return config.max_model_len or limit
