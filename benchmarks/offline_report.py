"""The offline comparison as JSON, as a Markdown page and as a plot."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from pathlib import Path

from benchmarks import machine, shapes
from benchmarks.comparison import Comparison, Point

LEGEND = """\
Only precisions of one class are compared; the ratio is to the fastest peer at that point. The share of the
bandwidth is what reading the weights takes of the read bandwidth measured just before and after, while one
request decodes. *Same output* is how much of the greedy output equals this engine's, up to the first token
that differs: random weights leave small margins, which 16 bits and less round differently. *Disturbed* is the
median share of the CPUs that other processes took meanwhile."""


def write(output: Path, command: str, model: Path, rounds: int, comparisons: list[Comparison]) -> None:
    """Write `<output>.json`, `<output>.md` and `<output>.png`."""
    host = machine.describe()
    num_weights = shapes.weights_read_per_token(model)
    report = {
        "machine": host,
        "command": command,
        "model": model.name,
        "weights_read_per_token": num_weights,
        "comparisons": [
            asdict(comparison)
            | {
                "points": [_derived(point, comparison.ours) for point in comparison.points()],
                "bandwidth_share": comparison.bandwidth_share(num_weights),
            }
            for comparison in comparisons
        ],
    }
    output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    page = [
        f"# Offline throughput, {model.name}",
        "",
        f"Tokens per second, medians of {rounds} alternating rounds; `{command}`",
        "",
        ", ".join(f"{key} {value}" for key, value in host.items()),
        "",
        LEGEND,
    ]
    for comparison in comparisons:
        page += ["", f"## {comparison.precision_class}", "", table(comparison, num_weights)]
    output.with_suffix(".md").write_text("\n".join(page) + "\n")
    plot(comparisons, output.with_suffix(".png"))


def table(comparison: Comparison, num_weights: int) -> str:
    """One class: a line for each point, and what else tells the contenders apart."""
    names = [entrant.name for entrant in comparison.entrants]
    lines = [
        "| tok/s | " + " | ".join(names) + " | best peer | ratio to it |",
        "|" + "---|" * (len(names) + 3),
    ]
    for point in comparison.points():
        best = point.best_peer(comparison.ours)
        cells = [f"{point.rate(name):.1f}" for name in names]
        cells += [best, f"{point.ratio(comparison.ours, best):.2f}"] if best else ["", ""]
        lines.append(f"| {point.label} | " + " | ".join(cells) + " |")
    shares = comparison.bandwidth_share(num_weights)
    if shares:
        bandwidth = statistics.median(comparison.read_bytes_per_s) / 1e9
        cells = [f"{shares[name]:.0%}" for name in names]
        lines.append(f"| of {bandwidth:.1f} GB/s, 1 request | " + " | ".join(cells) + " | | |")
    starts = [f"{entrant.start_seconds:.1f} s" for entrant in comparison.entrants]
    same = [f"{comparison.agreement(name):.0%}" for name in names]
    disturbed = [f"{comparison.disturbance(name):.0%}" for name in names]
    for label, cells in (("start", starts), ("same output", same), ("disturbed", disturbed)):
        lines.append(f"| {label} | " + " | ".join(cells) + " | | |")
    return "\n".join(lines)


def plot(comparisons: list[Comparison], path: Path) -> None:
    """Every point of every class: bars of tokens per second, relative to the best peer."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(comparisons), figsize=(5.5 * len(comparisons), 4), squeeze=False, layout="constrained"
    )
    for axis, comparison in zip(axes[0], comparisons, strict=True):
        points = comparison.points()
        names = [entrant.name for entrant in comparison.entrants]
        width = 0.8 / len(names)
        for place, name in enumerate(names):
            heights = [point.rate(name) / point.rate(comparison.ours) for point in points]
            left = [index + (place - (len(names) - 1) / 2) * width for index in range(len(points))]
            axis.bar(left, heights, width, label=name)
        axis.set_title(comparison.precision_class)
        axis.set_xticks(range(len(points)), [point.label for point in points], rotation=20, ha="right")
        axis.set_ylabel("speed (this engine = 1)")
        axis.legend(fontsize="small")
        axis.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _derived(point: Point, ours: str) -> dict[str, object]:
    best = point.best_peer(ours)
    return {
        "label": point.label,
        "tokens_per_s": {name: point.rate(name) for name in point.seconds},
        "ratios": {name: point.ratio(ours, name) for name in point.seconds if name != ours},
        "best_peer": best,
        "ratio_to_best": point.ratio(ours, best) if best else None,
    }
