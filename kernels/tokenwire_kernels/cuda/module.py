"""CUDA C++ that is compiled when it is first needed: by NVRTC, for the GPU at hand, and kept on disk."""

from __future__ import annotations

import ctypes
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

_SOURCES = Path(__file__).parent
POINTER, INT, FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_float
"""Types of arguments: an address, int32, float32."""


class CudaError(RuntimeError):
    """NVRTC or the driver refuses; the message is NVRTC's log, or the error's name."""


def is_available() -> bool:
    """Whether NVRTC is there, and what calls it and the driver."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError):
        return False
    return True


def compiled(source: str, defines: Sequence[str], capability: int) -> bytes:
    """Machine code of a file of this folder.

    Args:
        defines: such as "WARPS=16".
        capability: of the GPU, 90 for 9.0.

    Raises:
        CudaError: NVRTC does not take it.
    """
    from cuda.bindings import nvrtc

    names = sorted(path.name for path in _SOURCES.glob("*.cuh"))
    code, *headers = ((_SOURCES / name).read_bytes() for name in (source, *names))
    options = [
        f"--gpu-architecture=sm_{capability}{'a' if capability >= 90 else ''}",
        "--std=c++17",
        "-default-device",
    ]
    options += [f"-D{define}" for define in defines]
    version = _checked(nvrtc.nvrtcVersion())
    key = hashlib.sha256(repr((code, headers, options, version)).encode()).hexdigest()
    kept = _cache_directory() / f"{Path(source).stem}-{key[:32]}.cubin"
    if kept.exists():
        return kept.read_bytes()
    included = [name.encode() for name in names]
    (program,) = _checked(nvrtc.nvrtcCreateProgram(code, source.encode(), len(names), headers, included))
    status, *_ = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        (size,) = _checked(nvrtc.nvrtcGetProgramLogSize(program))
        log = bytearray(size)
        nvrtc.nvrtcGetProgramLog(program, log)
        raise CudaError(bytes(log).rstrip(b"\0").decode())
    (size,) = _checked(nvrtc.nvrtcGetCUBINSize(program))
    cubin = bytearray(size)
    _checked(nvrtc.nvrtcGetCUBIN(program, cubin))
    nvrtc.nvrtcDestroyProgram(program)
    _keep(kept, bytes(cubin))
    return bytes(cubin)


class Kernel:
    """One function of a compiled source, on one GPU."""

    def __init__(
        self,
        cubin: bytes,
        name: str,
        argument_types: Sequence[Any],
        most_shared_bytes: int,
        device: torch.device,
    ) -> None:
        """Loads the code into a device's context.

        Args:
            argument_types: `POINTER`, `INT` or `FLOAT` each.
            most_shared_bytes: of dynamic shared memory, that a launch may ask for.

        Raises:
            CudaError: the driver refuses.
        """
        from cuda.bindings import driver

        self._driver = driver
        self._argument_types = tuple(argument_types)
        self._device = device
        with torch.cuda.device(device):
            (self._module,) = _checked(driver.cuModuleLoadData(cubin))
        (self._function,) = _checked(driver.cuModuleGetFunction(self._module, name.encode()))
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _checked(driver.cuFuncSetAttribute(self._function, attribute, most_shared_bytes))

    def launch(
        self,
        grid: int,
        threads: int,
        shared_bytes: int,
        arguments: Sequence[Any],
        *,
        depends: bool = False,
        cooperates: bool = False,
    ) -> None:
        """Launch blocks in one dimension, on PyTorch's current stream.

        Args:
            arguments: of the kernel's types; an address is an int, 0 for none.
            depends: begins before the kernels ahead have ended, and waits for them itself.
            cooperates: its blocks wait for each other, so that all run at once or none does.

        Raises:
            CudaError: the driver refuses.
        """
        config = self._driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
        config.sharedMemBytes = shared_bytes
        config.hStream = torch.cuda.current_stream(self._device).cuda_stream
        attributes = [self._dependence()] if depends else []
        attributes += [self._cooperation()] if cooperates else []
        config.attrs, config.numAttrs = attributes, len(attributes)
        parameters = (tuple(arguments), self._argument_types)
        _checked(self._driver.cuLaunchKernelEx(config, self._function, parameters, 0))

    def _dependence(self) -> Any:
        attribute = self._driver.CUlaunchAttribute()
        attribute.id = self._driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        return attribute

    def _cooperation(self) -> Any:
        attribute = self._driver.CUlaunchAttribute()
        attribute.id = self._driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
        attribute.value.cooperative = 1
        return attribute


def _checked(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a call returned behind its status.

    Raises:
        CudaError: the status is one of an error.
    """
    status, *values = answer
    if status.value != 0:
        raise CudaError(f"{type(status).__name__}: {status.name}")
    return tuple(values)


def _keep(file: Path, content: bytes) -> None:
    """Write a file at once or not at all; where it cannot be written, code is compiled at every start."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as beside:
            beside.write(content)
        os.replace(beside.name, file)
    except OSError:
        return


def _cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tokenwire" / "kernels"
