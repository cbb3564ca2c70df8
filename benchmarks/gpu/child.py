"""One section in a process of its own, so that what it does to the device ends with it.

Arguments: the section's name, the file for its findings, and the context as JSON.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.gpu.findings import Findings
from benchmarks.gpu.section import Context, SkippedError

SKIPPED = 3
"""Exit status of a section that cannot be measured here."""


def main() -> None:
    name, file, given = sys.argv[1:]
    fields = json.loads(given)
    context = Context(torch.device(fields.pop("device")), **fields)
    findings = Findings(Path(file))
    try:
        with torch.inference_mode():
            import_module(f"benchmarks.gpu.{name}").measure(context, findings)
    except SkippedError as reason:
        findings.note(f"skipped: {reason}")
        sys.exit(SKIPPED)


if __name__ == "__main__":
    main()
