"""What the GPU's kernels need of each GPU generation, found without a GPU.

The launches are those that the operators really make over a table of shapes (`launch_cases.py`), compiled
ahead of time. `python -m benchmarks.compile` writes registers, shared memory and spills to
benchmarks/results/compile.md; the kernels' tests assert on the same numbers.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import compiler as nvidia
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel
from triton.experimental.gluon._runtime import GluonASTSource

from benchmarks.launch_cases import launches
from benchmarks.recording import Launch
from tokenwire_kernels.cuda import few_rows
from tokenwire_kernels.cuda.module import compiled
from tokenwire_kernels.triton.target import AMPERE, BLACKWELL, HOPPER

RESULTS = Path(__file__).parent / "results" / "compile.md"
GENERATIONS = (AMPERE, HOPPER, BLACKWELL)


@dataclass(slots=True, frozen=True)
class Usage:
    """What a compiled kernel needs."""

    kernel: str
    case: str
    capability: int
    registers: int
    stack_bytes: int
    """Per thread: registers spilled to memory, or arrays that did not fit in any."""
    shared_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the measurements; write no report")
    parser.add_argument("--quick", action="store_true", help="only the shapes of the usual checkpoints")
    options = parser.parse_args()
    usages = [
        usage_of(launch, gpu.capability)
        for gpu in GENERATIONS
        for launch in launches(gpu, quick=options.quick)
    ]
    usages += [usage for gpu in GENERATIONS for usage in usages_of_cuda(gpu.capability)]
    if options.json:
        print(json.dumps([asdict(usage) for usage in usages]))
    else:
        RESULTS.write_text(report(usages))
        print(RESULTS.read_text())


def usage_of(launch: Launch, capability: int) -> Usage:
    """Compile for one generation, and read the binary's resource usage."""
    given = launch.specialization
    source_type = GluonASTSource if launch.function.is_gluon() else ASTSource
    source = source_type(launch.function, given.types, given.constants, given.attributes)
    binary = compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    (used,) = _resources(binary.asm["cubin"])
    return Usage(launch.kernel, launch.case, capability, used.registers, used.stack, binary.metadata.shared)


def usages_of_cuda(capability: int) -> list[Usage]:
    """Those of the kernels in CUDA C++, with as much shared memory as a launch may ask for."""
    return [
        Usage(
            used.kernel, f"CUDA C++, {str(dtype).removeprefix('torch.')}", capability,
            used.registers, used.stack, used.shared + few_rows.MOST_SHARED_BYTES,
        )
        for dtype in (torch.bfloat16, torch.float16)
        for used in _resources(compiled(few_rows.SOURCE, few_rows.defines(dtype), capability))
    ]  # fmt: skip


def report(usages: list[Usage]) -> str:
    """The measurements as a Markdown page."""
    lines = [
        "# What the GPU's kernels need",
        "",
        "Compiled ahead of time, without a GPU, by `python -m benchmarks.compile`. Registers and stack are",
        "per thread; a stack of 0 means that nothing was spilled.",
        "",
        "| kernel | case | sm | registers | stack, bytes | shared memory, bytes |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {u.kernel} | {u.case} | {u.capability} | {u.registers} | {u.stack_bytes} | {u.shared_bytes} |"
        for u in usages
    ]
    return "\n".join(lines) + "\n"


@dataclass(slots=True, frozen=True)
class _Resources:
    """Of one kernel in a binary; bytes."""

    kernel: str
    registers: int
    stack: int
    """And local memory."""
    shared: int


def _resources(cubin: bytes) -> list[_Resources]:
    """All kernels in a binary."""
    cuobjdump = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        shown = subprocess.run(
            [cuobjdump, "--dump-resource-usage", file.name], check=True, capture_output=True, text=True
        ).stdout
    found = re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", shown)
    return [
        _Resources(name, int(registers), int(stack) + int(local), int(shared))
        for name, registers, stack, shared, local in found
    ]


if __name__ == "__main__":
    main()
