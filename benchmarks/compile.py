"""What the Triton kernels need of each GPU generation, found without a GPU.

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

from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import compiler as nvidia
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel
from triton.experimental.gluon._runtime import GluonASTSource

from benchmarks.launch_cases import launches
from benchmarks.recording import Launch
from tokenwire_kernels.triton.target import AMPERE, BLACKWELL, HOPPER

RESULTS = Path(__file__).parent / "results" / "compile.md"


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
        for gpu in (AMPERE, HOPPER, BLACKWELL)
        for launch in launches(gpu, quick=options.quick)
    ]
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
    compiled = compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    registers, stack = _resources(compiled.asm["cubin"])
    return Usage(launch.kernel, launch.case, capability, registers, stack, compiled.metadata.shared)


def report(usages: list[Usage]) -> str:
    """The measurements as a Markdown page."""
    lines = [
        "# What the Triton kernels need",
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


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers, and bytes of stack and local memory, of the one kernel in a binary."""
    cuobjdump = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        shown = subprocess.run(
            [cuobjdump, "--dump-resource-usage", file.name], check=True, capture_output=True, text=True
        ).stdout
    fields = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", shown)}
    return fields["REG"], fields["STACK"] + fields["LOCAL"]


if __name__ == "__main__":
    main()
