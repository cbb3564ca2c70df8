"""Output tokens per second with planning and computing overlapped, and one after the other.

    python -m benchmarks.overlap --requests 1 8 32

Both engines run in alternating rounds on the same prompts.
"""

from __future__ import annotations

import argparse
import random
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.engine import Engine
from benchmarks.report import RESULTS, median_ratio, table, write_report
from benchmarks.shapes import SHAPES, model_path


@dataclass(slots=True)
class Point:
    """One model and one number of requests, over all rounds."""

    model: str
    requests: int
    on_tokens_per_s: list[float] = field(default_factory=list)
    off_tokens_per_s: list[float] = field(default_factory=list)
    same_tokens: bool = True
    """Whether both engines produced the same tokens in every round."""


def measure(
    model: str, requests: list[int], prompt_tokens: int, output_tokens: int, rounds: int
) -> list[Point]:
    """Run both engines `rounds` times after one warm-up round."""
    points = [Point(model, count) for count in requests]
    chooser = random.Random(0)
    path = str(model_path(model))
    with Engine(path, "--overlap") as overlapped, Engine(path, "--no-overlap") as sequential:
        vocab_size = overlapped.model().vocab_size
        for number in range(-1, rounds):
            for point in points:
                prompts = [
                    [chooser.randrange(3, vocab_size) for _ in range(prompt_tokens)]
                    for _ in range(point.requests)
                ]
                pairs = [(overlapped, point.on_tokens_per_s), (sequential, point.off_tokens_per_s)]
                outputs = []
                for engine, rates in pairs if number % 2 else reversed(pairs):
                    session = engine.session()
                    for prompt in prompts:
                        session.submit(prompt, output_tokens)
                    streams = session.finish()
                    outputs.append([stream.token_ids for stream in streams])
                    seconds = max(stream.times_s[-1] for stream in streams) - streams[0].submitted_s
                    if number >= 0:
                        rates.append(point.requests * output_tokens / seconds)
                point.same_tokens &= outputs[0] == outputs[1]
    return points


def row(point: Point) -> list[str]:
    """The report's row of one point."""
    return [
        point.model,
        str(point.requests),
        f"{statistics.median(point.on_tokens_per_s):.1f}",
        f"{statistics.median(point.off_tokens_per_s):.1f}",
        f"{median_ratio(point.on_tokens_per_s, point.off_tokens_per_s):.3f}",
        "yes" if point.same_tokens else "no",
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write it beside its raw data."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overlap", description=__doc__)
    parser.add_argument(
        "--models",
        nargs="+",
        default=["demo", "llama-135m"],
        help=f"demo, {', '.join(SHAPES)}, or a directory",
    )
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "overlap")
    options = parser.parse_args(arguments)
    sizes = (options.requests, options.prompt_tokens, options.output_tokens)
    points = [point for model in options.models for point in measure(model, *sizes, options.rounds)]
    header = ["model", "requests", "overlap on, tok/s", "off, tok/s", "ratio", "same tokens"]
    text = (
        f"Output tokens per second, {options.prompt_tokens} prompt and {options.output_tokens} output "
        f"tokens, greedy. Medians of {options.rounds} alternating rounds; the ratio is the median of the "
        f"rounds' ratios of on to off.\n\n{table(header, map(row, points))}"
    )
    command = (
        f"python -m benchmarks.overlap --models {' '.join(options.models)}"
        f" --requests {' '.join(map(str, options.requests))} --prompt-tokens {options.prompt_tokens}"
        f" --output-tokens {options.output_tokens} --rounds {options.rounds}"
    )
    data = {"points": [asdict(point) for point in points]}
    write_report(options.output, "Overlap of planning and computing, on and off", command, text, data)


if __name__ == "__main__":
    main()
