"""A benchmark's report: a table for people, and beside it the raw data for programs."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine

RESULTS = Path(__file__).parent / "results"


def write_report(output: Path, title: str, command: str, text: str, data: dict[str, Any]) -> None:
    """Print a report, and write `<output>.md` and `<output>.json`.

    Args:
        command: what measures the same again.
        text: the report without its title, command and machine.
    """
    host = machine.describe()
    described = ", ".join(f"{key} {value}" for key, value in host.items())
    page = f"# {title}\n\n`{command}`\n\n{described}\n\n{text}\n"
    print(page)
    output.with_suffix(".md").write_text(page)
    report = {"machine": host, "command": command, **data}
    output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median of the ratios of values that were measured in the same round, which a noisy machine
    disturbs least."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
