"""Compiles the native kernels into one shared library, for every instruction set that the compiler knows.

Run when the package is installed, and by `python kernels/tokenwire_kernels/cpu/build.py`. Needs nothing but
the standard library and a C++20 compiler. Only `kernels.cpp` is compiled for more than the compiler's
baseline, and nothing of it runs before the library has asked the CPU.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "src"
LIBRARY = Path(__file__).resolve().parent / "libtokenwire_cpu.so"

# A product and a sum are one operation only where the source says so: the compiler must not choose it in one
# place and not in another, or the same token has two results.
_ARITHMETIC = ("-fno-math-errno", "-ffp-contract=off")
FLAGS = ("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", *_ARITHMETIC, "-pthread")
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
_AVX512_BF16 = (*_AVX512, "-mavx512vnni", "-mavx512bf16")


class BuildError(RuntimeError):
    """There is no compiler, or it failed; one line that says which."""


@dataclass(slots=True, frozen=True)
class InstructionSet:
    """One compilation of `kernels.cpp`."""

    name: str
    flags: tuple[str, ...]


INSTRUCTION_SETS = (
    InstructionSet("portable", ()),
    InstructionSet("avx2", _AVX2),
    InstructionSet("avx512", _AVX512),
    InstructionSet("avx512_vnni", (*_AVX512, "-mavx512vnni")),
    InstructionSet("avx512_bf16", _AVX512_BF16),
    InstructionSet("amx", (*_AVX512_BF16, "-mamx-tile", "-mamx-bf16", "-mamx-int8")),
)
"""Weakest first; the index is the kernels' TW_LEVEL."""


def build(target: Path = LIBRARY, extra_flags: Sequence[str] = ()) -> list[str]:
    """Write the shared library.

    Args:
        extra_flags: for every compilation and the linking, such as those of a sanitizer.

    Returns:
        The names of the instruction sets that it holds.

    Raises:
        BuildError: there is no compiler, or it failed.
    """
    compiler = find_compiler()
    flags = (*FLAGS, *extra_flags)
    with tempfile.TemporaryDirectory() as folder:
        chosen = [
            (level, instruction_set)
            for level, instruction_set in enumerate(INSTRUCTION_SETS)
            if _knows(compiler, instruction_set.flags)
        ]
        objects = []
        running = []
        for level, instruction_set in chosen:
            output = str(Path(folder) / f"{instruction_set.name}.o")
            table = f"-DTW_TABLE={instruction_set.name}_table"
            command = [compiler, *flags, *instruction_set.flags, f"-DTW_LEVEL={level}", table]
            command += ["-c", str(SOURCES / "kernels.cpp"), "-o", output]
            running.append(_start(command))
            objects.append(output)
        for process in running:
            _finish(process)
        present = [f'-DTW_SOURCES="{digest()}"']
        present += [f"-DTW_HAS_{instruction_set.name.upper()}=1" for _, instruction_set in chosen]
        rest = [str(SOURCES / name) for name in ("library.cpp", "pool.cpp", "select.cpp")]
        unfinished = str(target) + ".part"
        _finish(_start([compiler, *flags, "-shared", *present, *rest, *objects, "-o", unfinished]))
        os.replace(unfinished, target)
    return [instruction_set.name for _, instruction_set in chosen]


def digest() -> str:
    """Names the sources; a library keeps that of those it was made of."""
    sources = (file.read_bytes() for file in sorted(SOURCES.iterdir()))
    return hashlib.sha256(b"".join(sources)).hexdigest()


def is_current() -> bool:
    """Whether the library is newer than everything that it is made of."""
    if not LIBRARY.exists():
        return False
    made = LIBRARY.stat().st_mtime
    return all(file.stat().st_mtime < made for file in (*SOURCES.iterdir(), Path(__file__)))


def find_compiler() -> str:
    """The C++ compiler: $CXX, else what the system calls one.

    Raises:
        BuildError: there is none.
    """
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and (path := shutil.which(name)):
            return path
    raise BuildError("no C++ compiler was found")


def _knows(compiler: str, flags: Sequence[str]) -> bool:
    """Whether the compiler has an instruction set, for this machine's architecture."""
    if not flags:
        return True
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    command = [compiler, *flags, "-x", "c++", "-fsyntax-only", "-"]
    source = "#include <immintrin.h>\n"
    return subprocess.run(command, input=source, text=True, capture_output=True).returncode == 0


def _start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate()
    if process.returncode != 0:
        command = " ".join(map(str, process.args)) if isinstance(process.args, list) else str(process.args)
        raise BuildError(f"{command} failed: {output.strip()[-2000:]}")


if __name__ == "__main__":
    try:
        print(f"{LIBRARY}: {', '.join(build())}")
    except BuildError as error:
        sys.exit(str(error))
