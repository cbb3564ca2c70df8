"""Kernels of CUDA C++ on a CPU: a header with fibers in the place of threads, and GCC."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tokenwire_kernels import cuda

_HERE, _SOURCES = Path(__file__).parent, Path(cuda.__file__).parent
_libraries = TemporaryDirectory()


@cache
def emulated(source: str, *defines: str) -> ctypes.CDLL:
    """A file of this folder with the kernels that it includes, compiled for this CPU. Skips without GCC."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    library = Path(_libraries.name) / f"{'-'.join([source, *defines])}.so"
    options = ["-std=c++20", "-O2", "-ffp-contract=off", "-shared", "-fPIC", f"-I{_HERE}", f"-I{_SOURCES}"]
    options += [f"-D{define}" for define in defines]
    subprocess.run(["g++", *options, str(_HERE / source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))
