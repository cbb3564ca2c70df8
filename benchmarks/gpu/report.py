"""The report for people: the sections' tables as a Markdown page, with plots where matplotlib is there."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.report import table

STATUS = {"done": "", "skipped": " (skipped)", "failed": " (failed)", "cut": " (cut short)"}


def page(report: dict[str, Any], plots: list[str]) -> str:
    """Everything that was measured, in the order of the sections."""
    host = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    parts = [f"# {report['machine']['gpu']}, {report['date']}", f"`{report['command']}`", host]
    if report["quick"]:
        parts.append("**Taken with tiny shapes, to try the benchmark out: the figures mean nothing.**")
    parts += [f"![{Path(plot).stem}]({plot})" for plot in plots]
    for section in report["sections"]:
        status, seconds = STATUS[section["status"]], section["seconds"]
        parts.append(f"## {section['name'].capitalize()}{status}\n\n{seconds:.0f} s")
        if section["reason"]:
            parts.append(f"> {section['reason']}")
        for each in section["tables"]:
            rows = [[_shown(value) for value in row] for row in each["rows"]]
            parts.append(f"### {each['title']}\n\n" + table(each["columns"], rows))
        if section["notes"]:
            parts.append("\n".join(f"- {note}" for note in section["notes"]))
    return "\n\n".join(parts) + "\n"


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def draw(report: dict[str, Any], output: Path) -> list[str]:
    """Plot the decode steps beside the bandwidth's bound; the file names, none without matplotlib."""
    tables = [each for section in report["sections"] for each in section["tables"]]
    decode = next((each for each in tables if each["title"] == "Decode" and each["rows"]), None)
    if decode is None or find_spec("matplotlib") is None:
        return []
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="tight")
    axes = figure.subplots()
    at = {name: decode["columns"].index(name) for name in decode["columns"]}
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in decode["rows"]:
        if row[at["graphs"]] == "on" and row[at["% of read"]] is not None:
            label = f"{row[at['model']]}, {row[at['context']]} tokens each"
            lines.setdefault(label, []).append((row[at["sequences"]], row[at["% of read"]]))
    for label, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=label)
    axes.set(xscale="log", xlabel="sequences", ylabel="% of the read bandwidth", ylim=(0, 105))
    if lines:
        axes.legend(fontsize="small")
    file = output.with_name(output.name + "-decode.png")
    figure.savefig(file, dpi=150)
    return [file.name]
