"""A long prompt that arrives among decoding streams, with and without chunked prefill.

    python -m benchmarks.chunking --streams 16 --prompt-tokens 4096

What differs is how many tokens a step may hold: as many as the prompt, so that it is computed in one piece
and all streams wait for it, or fewer, so that their tokens go on between its chunks. The engines run in
alternating rounds on the same prompts.
"""

from __future__ import annotations

import argparse
import random
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.engine import Engine
from benchmarks.report import RESULTS, percentile, table, write_report
from benchmarks.shapes import SHAPES, model_path

SETTLED_TOKENS = 8
"""The streams have so many tokens when the long prompt comes."""
AUTOMATIC = "automatic"
"""No `--max-step-tokens`: the engine chooses."""


@dataclass(slots=True)
class Variant:
    """One engine, over all rounds."""

    step_tokens: str
    gaps_s: list[list[float]] = field(default_factory=list)
    """By round: times between two tokens of a stream while the long prompt was computed."""
    first_token_s: list[float] = field(default_factory=list)
    """Of the long prompt."""
    undisturbed_s: list[float] = field(default_factory=list)
    """By round: median time between two tokens before it came."""


def measure(
    model: str, step_tokens: list[str], streams: int, prompt_tokens: int, rounds: int
) -> list[Variant]:
    """Run every engine `rounds` times after one warm-up round."""
    variants = [Variant(tokens) for tokens in step_tokens]
    chooser = random.Random(0)
    path = str(model_path(model))
    engines: list[Engine] = []
    try:
        for variant in variants:
            given = [] if variant.step_tokens == AUTOMATIC else [f"--max-step-tokens={variant.step_tokens}"]
            # With the cache on, the rounds' prompts would be found; they are all different, so it is merely
            # room that is not needed.
            engines.append(Engine(path, "--no-prefix-cache", "--kv-cache-memory=512MiB", *given))
        vocab_size = engines[0].model().vocab_size
        pairs = list(zip(engines, variants, strict=True))
        for number in range(-1, rounds):
            short = [[chooser.randrange(3, vocab_size) for _ in range(32)] for _ in range(streams)]
            long = [chooser.randrange(3, vocab_size) for _ in range(prompt_tokens)]
            for engine, variant in pairs if number % 2 else reversed(pairs):
                _round(engine, variant, short, long, counts=number >= 0)
    finally:
        for engine in engines:
            engine.close()
    return variants


def _round(engine: Engine, variant: Variant, short: list[list[int]], long: list[int], counts: bool) -> None:
    session = engine.session()
    # More tokens than a chunked prompt takes steps, so that all of them decode until it is done.
    most_tokens = SETTLED_TOKENS + 64 + len(long) // 32
    streams = [session.submit(prompt, most_tokens) for prompt in short]
    while min(len(stream.token_ids) for stream in streams) < SETTLED_TOKENS:
        session.receive()
    arrival = session.submit(long, 1)
    while not arrival.is_done:
        session.receive()
    done_s = arrival.times_s[0]
    session.finish()
    if not counts:
        return
    gaps: list[float] = []
    before: list[float] = []
    for stream in streams:
        for earlier_s, later_s in zip(stream.times_s, stream.times_s[1:], strict=False):
            if earlier_s >= done_s:
                break
            # A gap counts if any of it lies within the time for which the prompt was computed.
            (gaps if later_s > arrival.submitted_s else before).append(later_s - earlier_s)
    variant.gaps_s.append(gaps)
    variant.undisturbed_s.append(statistics.median(before))
    variant.first_token_s.append(arrival.first_token_s)


def row(model: str, variant: Variant, whole: Variant) -> list[str]:
    """The report's row of one engine, beside the one that takes the prompt as a whole."""

    def p99_ms(one: Variant, number: int) -> float:
        return percentile(one.gaps_s[number], 99) * 1e3

    rounds = range(len(variant.gaps_s))
    name = variant.step_tokens + (", the whole prompt" if variant is whole else "")
    return [
        model,
        name,
        f"{statistics.median(variant.undisturbed_s) * 1e3:.1f}",
        f"{statistics.median(statistics.median(gaps) for gaps in variant.gaps_s) * 1e3:.1f}",
        f"{statistics.median(p99_ms(variant, number) for number in rounds):.1f}",
        f"{max(max(gaps) for gaps in variant.gaps_s) * 1e3:.1f}",
        f"{statistics.median(p99_ms(whole, number) / p99_ms(variant, number) for number in rounds):.2f}",
        f"{statistics.median(variant.first_token_s):.2f}",
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write it beside its raw data."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chunking", description=__doc__)
    parser.add_argument(
        "--models", nargs="+", default=["llama-135m"], help=f"demo, {', '.join(SHAPES)}, or a directory"
    )
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=4096)
    parser.add_argument(
        "--step-tokens", nargs="+", default=["64", "256", "512", AUTOMATIC], help=f"numbers, or {AUTOMATIC}"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "chunking")
    options = parser.parse_args(arguments)
    whole = str(options.prompt_tokens + options.streams)
    results = {}
    for model in options.models:
        results[model] = measure(
            model, [whole, *options.step_tokens], options.streams, options.prompt_tokens, options.rounds
        )
    header = [
        "model",
        "tokens a step",
        "alone, ms",
        "p50, ms",
        "p99, ms",
        "max, ms",
        "p99 of whole / this",
        "first token of the prompt, s",
    ]
    rows = [row(model, variant, variants[0]) for model, variants in results.items() for variant in variants]
    text = (
        f"Time between two tokens of {options.streams} decoding streams, before (alone) and while a prompt "
        f"of {options.prompt_tokens} tokens is computed among them. Medians of {options.rounds} alternating "
        "rounds (max: of all).\n\n" + table(header, rows)
    )
    command = (
        f"python -m benchmarks.chunking --models {' '.join(options.models)} --streams {options.streams}"
        f" --prompt-tokens {options.prompt_tokens} --step-tokens {' '.join(options.step_tokens)}"
        f" --rounds {options.rounds}"
    )
    data = {"models": {model: [asdict(variant) for variant in each] for model, each in results.items()}}
    write_report(options.output, "A long prompt among decoding streams", command, text, data)


if __name__ == "__main__":
    main()
