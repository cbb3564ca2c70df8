"""On which device a model runs, and in which number format."""

from __future__ import annotations

import torch

from tokenwire_engine.config import EngineConfig
from tokenwire_engine.models.config_file import ConfigFile
from tokenwire_engine.models.errors import ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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


def choose_dtype(config: EngineConfig, checkpoint: ConfigFile, device: torch.device) -> torch.dtype:
    """The dtype that `--dtype` means: as given, or the checkpoint's on CUDA, or float32 on a CPU.

    Raises:
        ModelError: a 16-bit format on a CPU, or a checkpoint in a format of its own.
    """
    if device.type == "cpu":
        if config.dtype not in ("auto", "float32"):
            raise ModelError(
                f"--dtype is {config.dtype}, which is not supported on a CPU, where float32 is faster; "
                "use --dtype float32 or auto (the checkpoint is converted)"
            )
        return torch.float32
    if config.dtype != "auto":
        return DTYPES[config.dtype]
    name = checkpoint.fields.get("dtype") or checkpoint.fields.get("torch_dtype") or "float32"
    if name not in DTYPES:
        raise ModelError(f"config.json has dtype = {name!r}; give one with --dtype: {', '.join(DTYPES)}")
    return DTYPES[name]
