"""On which device a model runs, and in which number format."""

from __future__ import annotations

import logging
from importlib.util import find_spec

import torch

from tokenwire_engine.config import EngineConfig
from tokenwire_engine.models.config_file import ConfigFile
from tokenwire_engine.models.errors import ModelError
from tokenwire_kernels import Kernels, NativeError, describe_kernels, select_kernels
from tokenwire_kernels.cpu import describe_products, instruction_sets

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CACHE_DTYPES = DTYPES | {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
FP8_CAPABILITY = (8, 9)
"""The first GPUs that convert from and to fp8."""


def choose_device(option: str) -> torch.device:
    """The device that `--device` means.

    Raises:
        ModelError: it asks for a CUDA device that is not there.
    """
    if option == "cpu" or (option == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    index = int(option.removeprefix("cuda:")) if option.startswith("cuda:") else 0
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        raise ModelError(
            f"--device is {option}, but there are {count} CUDA devices; use --device cpu or auto"
        )
    return torch.device("cuda", index)


def choose_kernels(config: EngineConfig, device: torch.device) -> Kernels:
    """The operators for the device, with the instruction set that `--cpu-instruction-set` means.

    Raises:
        ModelError: the CPU, or the build, lacks it.
    """
    if (reason := _unsupported(device)) is not None:
        logger.warning("%s: PyTorch computes instead of the kernels for GPUs, which is much slower", reason)
    try:
        return select_kernels(device, config.cpu_instruction_set)
    except NativeError as error:
        raise ModelError(f"--cpu-instruction-set is {config.cpu_instruction_set}, but {error}") from None


def _unsupported(device: torch.device) -> str | None:
    """Why the kernels for GPUs do not run on the device; None: they do, or it is a CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    if torch.version.cuda is None:
        return f"{name} is not an NVIDIA GPU"
    if find_spec("triton") is None:
        return f"{name} needs the Python package triton, which is not installed"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < (8, 0):
        return f"{name} has compute capability {major}.{minor}, older than 8.0"
    return None


def choose_dtype(
    config: EngineConfig, checkpoint: ConfigFile, device: torch.device, kernels: Kernels
) -> torch.dtype:
    """The dtype that `--dtype` means: as given, or the checkpoint's on CUDA, or what a CPU reads fastest.

    Raises:
        ModelError: a 16-bit format on a CPU without native kernels, or a checkpoint in a format of its own.
    """
    if device.type == "cpu":
        return _host_dtype(config, kernels)
    if config.dtype != "auto":
        return DTYPES[config.dtype]
    name = checkpoint.fields.get("dtype") or checkpoint.fields.get("torch_dtype") or "float32"
    if name not in DTYPES:
        raise ModelError(f"config.json has dtype = {name!r}; give one with --dtype: {', '.join(DTYPES)}")
    return DTYPES[name]


def _host_dtype(config: EngineConfig, kernels: Kernels) -> torch.dtype:
    """bfloat16 where native kernels widen it as they read it: half the bytes of float32, which are what
    decoding waits for."""
    if kernels.native is None:
        if config.dtype not in ("auto", "float32"):
            raise ModelError(
                f"--dtype is {config.dtype}, which needs the native CPU kernels; "
                "use --dtype float32 or auto (the checkpoint is converted)"
            )
        return torch.float32
    if config.dtype != "auto":
        return DTYPES[config.dtype]
    return torch.float32 if kernels.native.instruction_set == "portable" else torch.bfloat16


def choose_cache_dtype(
    config: EngineConfig, dtype: torch.dtype, device: torch.device, kernels: Kernels
) -> torch.dtype:
    """The format of keys and values that `--kv-cache-dtype` means, for a model that computes in `dtype`.

    Raises:
        ModelError: fp8, which neither the native CPU kernels nor older GPUs read, or int8 on a GPU.
    """
    if config.kv_cache_dtype == "auto":
        return dtype
    if config.kv_cache_dtype == "fp8":
        if kernels.native is not None:
            raise ModelError(
                "--kv-cache-dtype is fp8, which the native CPU kernels do not read; choose int8, or "
                "--cpu-instruction-set torch, which is slower"
            )
        if device.type == "cuda" and (found := torch.cuda.get_device_capability(device)) < FP8_CAPABILITY:
            raise ModelError(
                "--kv-cache-dtype is fp8, which needs a GPU of compute capability 8.9 or newer; "
                f"{torch.cuda.get_device_name(device)} has {found[0]}.{found[1]}: choose bfloat16"
            )
    if config.kv_cache_dtype == "int8" and device.type == "cuda":
        raise ModelError("--kv-cache-dtype is int8, which the GPU kernels do not read; choose fp8")
    return CACHE_DTYPES[config.kv_cache_dtype]


def describe_kernels_for(config: EngineConfig) -> list[str]:
    """What `--print-kernels` shows: the device, the threads, and each operator's implementation.

    Raises:
        ModelError: a device or an instruction set was asked for that is not there.
    """
    device = choose_device(config.device)
    kernels = choose_kernels(config, device)
    lines = [f"device            {device}"]
    if (native := kernels.native) is not None:
        there = ", ".join(instruction_sets(native.library))
        lines.append(f"instruction set   {native.instruction_set} (this CPU and build have {there})")
        lines.append(f"threads           {native.num_threads}")
    lines += [f"{name:<17} {implementation}" for name, implementation in describe_kernels(kernels)]
    if native is not None:
        lines += [f"{'linear, ' + name:<17} {path}" for name, path in describe_products(native)]
    return lines
