"""Offline throughput: this engine beside its peers, on the same weights, in alternating rounds.

    python -m benchmarks.offline --model llama-135m --requests 1 8 32 --prompt-tokens 128 --output-tokens 64

Every round runs every peer once at every number of requests; the report gives medians over rounds, and the
median of the per-round ratios, which a noisy machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.shapes import SHAPES, checkpoint
from benchmarks.workers import Worker

RESULTS = Path(__file__).parent / "results"


@dataclass(slots=True)
class Point:
    """One number of requests, over all rounds."""

    requests: int
    output_tokens_per_s: dict[str, list[float]]
    same_tokens: bool
    """Whether all peers produced the same tokens in every round."""

    def median(self, peer: str) -> float:
        return statistics.median(self.output_tokens_per_s[peer])

    def ratio(self, peer: str) -> float:
        """Median over rounds of this engine's rate divided by the peer's."""
        ours = self.output_tokens_per_s["tokenwire"]
        return statistics.median(a / b for a, b in zip(ours, self.output_tokens_per_s[peer], strict=True))


def measure(
    model: Path,
    requests: list[int],
    prompt_tokens: int,
    output_tokens: int,
    peers: list[str],
    rounds: int,
    threads: int,
) -> list[Point]:
    """Run all peers, alternating, `rounds` times after one warm-up round."""
    workers = {peer: Worker(f"benchmarks.peers.{peer}", str(model), threads=threads) for peer in peers}
    vocab_size = json.loads((model / "config.json").read_text())["vocab_size"]
    points = [Point(count, {peer: [] for peer in peers}, True) for count in requests]
    chooser = random.Random(0)
    try:
        for round_number in range(-1, rounds):
            for point in points:
                prompts = [
                    [chooser.randrange(3, vocab_size) for _ in range(prompt_tokens)]
                    for _ in range(point.requests)
                ]
                tokens = []
                for peer in peers if round_number % 2 else reversed(peers):
                    answer = workers[peer].ask(prompts=prompts, output_tokens=output_tokens)
                    tokens.append(answer["tokens"])
                    if round_number >= 0:
                        rate = point.requests * output_tokens / answer["seconds"]
                        point.output_tokens_per_s[peer].append(rate)
                point.same_tokens &= all(other == tokens[0] for other in tokens)
    finally:
        for worker in workers.values():
            worker.close()
    return points


def table(points: list[Point]) -> str:
    """The report as a Markdown table."""
    peers = list(points[0].output_tokens_per_s)
    others = [peer for peer in peers if peer != "tokenwire"]
    lines = [
        "| requests | "
        + " | ".join(f"{peer}, tok/s" for peer in peers)
        + " | "
        + " | ".join(f"ratio to {peer}" for peer in others)
        + " | same tokens |",
        "|" + "---|" * (2 + len(peers) + len(others)),
    ]
    for point in points:
        cells = [str(point.requests)]
        cells += [f"{point.median(peer):.1f}" for peer in peers]
        cells += [f"{point.ratio(peer):.2f}" for peer in others]
        lines.append("| " + " | ".join([*cells, "yes" if point.same_tokens else "no"]) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write it beside its raw data."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.offline", description=__doc__)
    parser.add_argument("--model", default="llama-135m", help=f"directory, or one of {', '.join(SHAPES)}")
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--peers", default="transformers", help="comma-separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path, default=RESULTS / "offline")
    options = parser.parse_args(arguments)
    model = checkpoint(options.model) if options.model in SHAPES else Path(options.model).resolve()
    peers = ["tokenwire", *options.peers.split(",")]
    points = measure(
        model,
        options.requests,
        options.prompt_tokens,
        options.output_tokens,
        peers,
        options.rounds,
        options.threads,
    )
    write_report(options, points)


def write_report(options: argparse.Namespace, points: list[Point]) -> None:
    """Print the table; write `<output>.json` and `<output>.md`."""
    host = machine.describe()
    command = (
        f"python -m benchmarks.offline --model {options.model}"
        f" --requests {' '.join(map(str, options.requests))} --prompt-tokens {options.prompt_tokens}"
        f" --output-tokens {options.output_tokens} --peers {options.peers}"
        f" --rounds {options.rounds} --threads {options.threads}"
    )
    report: dict[str, Any] = {
        "machine": host,
        "command": command,
        "points": [asdict(point) for point in points],
    }
    options.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    text = (
        "# Offline throughput\n\n"
        f"Output tokens per second, float32, medians of {options.rounds} alternating rounds; `{command}`\n\n"
        f"{', '.join(f'{key} {value}' for key, value in host.items())}\n\n{table(points)}\n"
    )
    options.output.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
