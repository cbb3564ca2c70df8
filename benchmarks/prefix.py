"""Requests with a common beginning, with the prefix cache on and off.

    python -m benchmarks.prefix --requests 32 --common-tokens 1024

Both engines run in alternating rounds on the same prompts, all requests of a round at once. The cache is
empty when a round begins: what is saved is saved within the round.
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
class Variant:
    """One engine, over all rounds."""

    name: str
    seconds: list[float] = field(default_factory=list)
    """From the first submission to the last token."""
    first_token_s: list[float] = field(default_factory=list)
    """Median over a round's requests."""
    computed_prompt_tokens: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Comparison:
    """Both engines with one model."""

    model: str
    on: Variant
    off: Variant
    same_tokens: bool = True
    """Whether both produced the same tokens in every round."""


def measure(
    model: str, requests: int, common_tokens: int, own_tokens: int, output_tokens: int, rounds: int
) -> Comparison:
    """Run both engines `rounds` times after one warm-up round."""
    result = Comparison(model, Variant("on"), Variant("off"))
    path = str(model_path(model))
    chooser = random.Random(0)
    with Engine(path) as with_cache, Engine(path, "--no-prefix-cache") as without:
        vocab_size = with_cache.model().vocab_size
        engines = [(with_cache, result.on), (without, result.off)]
        for number in range(-1, rounds):
            common = [chooser.randrange(3, vocab_size) for _ in range(common_tokens)]
            own = [[chooser.randrange(3, vocab_size) for _ in range(own_tokens)] for _ in range(requests)]
            outputs = []
            for engine, variant in engines if number % 2 else reversed(engines):
                engine.forget_prefixes()
                before = engine.load().prompt_tokens
                session = engine.session()
                for tokens in own:
                    session.submit(common + tokens, output_tokens)
                streams = session.finish()
                outputs.append([stream.token_ids for stream in streams])
                if number >= 0:
                    last_s = max(stream.times_s[-1] for stream in streams)
                    variant.seconds.append(last_s - streams[0].submitted_s)
                    variant.first_token_s.append(statistics.median(s.first_token_s for s in streams))
                    variant.computed_prompt_tokens.append(engine.load().prompt_tokens - before)
            result.same_tokens &= outputs[0] == outputs[1]
    return result


def row(result: Comparison) -> list[str]:
    """The report's row of one model."""
    on, off = result.on, result.off
    computed = [statistics.median(variant.computed_prompt_tokens) for variant in (on, off)]
    return [
        result.model,
        f"{statistics.median(on.seconds):.2f}",
        f"{statistics.median(off.seconds):.2f}",
        f"{median_ratio(off.seconds, on.seconds):.2f}",
        f"{statistics.median(on.first_token_s) * 1e3:.0f}",
        f"{statistics.median(off.first_token_s) * 1e3:.0f}",
        f"{median_ratio(off.first_token_s, on.first_token_s):.2f}",
        " / ".join(f"{tokens:.0f}" for tokens in computed),
        "yes" if result.same_tokens else "no",
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write it beside its raw data."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prefix", description=__doc__)
    parser.add_argument(
        "--models",
        nargs="+",
        default=["llama-10m", "llama-135m"],
        help=f"demo, {', '.join(SHAPES)}, or a directory",
    )
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--common-tokens", type=int, default=1024)
    parser.add_argument("--own-tokens", type=int, default=16)
    parser.add_argument("--output-tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "prefix")
    options = parser.parse_args(arguments)
    sizes = (options.requests, options.common_tokens, options.own_tokens, options.output_tokens)
    results = [measure(model, *sizes, options.rounds) for model in options.models]
    header = [
        "model",
        "cache on, s",
        "off, s",
        "ratio",
        "first token on, ms",
        "off, ms",
        "ratio",
        "prompt tokens computed, on / off",
        "same tokens",
    ]
    text = (
        f"{options.requests} requests at once, {options.common_tokens} common prompt tokens and "
        f"{options.own_tokens} of its own each, {options.output_tokens} output tokens, greedy; the cache is "
        f"empty at first. Medians of {options.rounds} alternating rounds; a ratio is the median of the "
        f"rounds' ratios of off to on.\n\n{table(header, map(row, results))}"
    )
    command = (
        f"python -m benchmarks.prefix --models {' '.join(options.models)} --requests {options.requests}"
        f" --common-tokens {options.common_tokens} --own-tokens {options.own_tokens}"
        f" --output-tokens {options.output_tokens} --rounds {options.rounds}"
    )
    data = {"models": [asdict(result) for result in results]}
    write_report(options.output, "The prefix cache, on and off", command, text, data)


if __name__ == "__main__":
    main()
