"""The report for people: the sections' tables as a Markdown page, with plots where matplotlib is there."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
        parts.append(f"## {section['name'].replace('_', ' ').capitalize()}{status}\n\n{seconds:.0f} s")
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
    """Plot steps and kernels as shares of what the device does at best; the file names, none without
    matplotlib."""
    if find_spec("matplotlib") is None:
        return []
    tables = {each["title"]: each for section in report["sections"] for each in section["tables"]}
    plots = []
    for title, plot in (("Decode", _draw_decode), ("Kernels", _draw_kernels)):
        if tables.get(title, {}).get("rows"):
            file = output.with_name(f"{output.name}-{title.lower()}.png")
            plot(_records(tables[title])).savefig(file, dpi=150)
            plots.append(file.name)
    return plots


def _records(given: dict[str, Any]) -> list[dict[str, Any]]:
    """A table's rows by column."""
    return [dict(zip(given["columns"], row, strict=True)) for row in given["rows"]]


def _draw_decode(steps: list[dict[str, Any]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="tight")
    axes = figure.subplots()
    lines: dict[str, list[tuple[int, float]]] = {}
    for step in steps:
        if step["graphs"] == "on" and step["% of read"] is not None:
            label = f"{step['model']}, {step['context']} tokens each"
            if step["KV cache"] == "fp8":
                label += ", fp8 cache"
            lines.setdefault(label, []).append((step["sequences"], step["% of read"]))
    for label, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=label)
    axes.set(xscale="log", xlabel="sequences", ylabel="% of the read bandwidth", ylim=(0, 105))
    if lines:
        axes.legend(fontsize="small")
    return figure


def _draw_kernels(kernels: list[dict[str, Any]]) -> Figure:
    """One bar a kernel: the larger of its shares of bandwidth and of the matrix product's rate."""
    from matplotlib.figure import Figure

    named = [f"{kernel['operator']}: {kernel['shape']}" for kernel in kernels]
    shares = [max(kernel["% of read"] or 0, kernel["% of matmul"] or 0) for kernel in kernels]
    figure = Figure(figsize=(8, 1 + 0.18 * len(kernels)), layout="tight")
    axes = figure.subplots()
    axes.barh(named, shares)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=5)
    axes.set(xlabel="% of the ceiling", xlim=(0, 105))
    return figure
