"""The native kernels under AddressSanitizer and UndefinedBehaviorSanitizer: their own tests, once more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.native import native_instruction_sets
from tokenwire_kernels.cpu.build import build, find_compiler

FLAGS = (
    "-O1",
    "-g1",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
)
TESTED = [
    f"tests/kernels/test_{name}.py"
    for name in ("linear", "norm", "activation", "rotary", "attention", "bitmask", "sampling", "forward")
]
SCRIPT = """
import sys
from pathlib import Path
import pytest
from tokenwire_kernels.cpu import library

library.LIBRARY = Path(sys.argv[1])
library.CHUNK_BYTES = 0  # every matrix by itself, so that its ends are watched
sys.exit(pytest.main(["-q", "-x", "-s", "-p", "no:cacheprovider", "-k", sys.argv[2], *sys.argv[3:]]))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not native_instruction_sets(), reason="the native kernels were not compiled")
def test_the_kernels_touch_nothing_but_what_is_theirs(tmp_path: Path) -> None:
    library = tmp_path / "libtokenwire_cpu.so"
    build(library, FLAGS)
    runtimes = [
        subprocess.run(
            [find_compiler(), f"-print-file-name={name}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    names = " or ".join([*native_instruction_sets(), "test_linear"])
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(library), names, *TESTED],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, (run.stdout + run.stderr)[-6000:]
