"""Offline throughput: this engine beside its peers, on the same weights, in alternating rounds.

    python -m benchmarks.offline --model llama-135m --requests 1 8 32 --prompt-tokens 128 --output-tokens 64 \
        --peers transformers,llama.cpp,vllm

Precisions are compared within their class: one class after the other is loaded, and every round runs each of
its contenders once at every number of requests, and once on a long prompt. The report gives medians over
rounds, and the median of the per-round ratios, which a noisy machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks import contenders, offline_report
from benchmarks.comparison import Comparison, Entrant, Run, agreement
from benchmarks.contenders import Contender
from benchmarks.quiet import quietly
from benchmarks.shapes import SHAPES, model_path
from benchmarks.workers import Worker

RESULTS = Path(__file__).parent / "results"
WARM_UP_TOKENS = 4


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the report, write it beside its raw data."""
    options = parse(arguments)
    model = model_path(options.model)
    command = "python -m benchmarks.offline " + shlex.join(sys.argv[1:] if arguments is None else arguments)
    # A point would begin a suffix.
    output = options.output or RESULTS / f"offline-{Path(options.model).name.replace('.', '_')}"
    comparisons: list[Comparison] = []
    for name, members in options.contenders.items():
        comparisons.append(measure(model, name, members, options))
        # After each class, so that a run that is cut short leaves what it has.
        offline_report.write(output, command.strip(), model, options.rounds, comparisons)
    print(output.with_suffix(".md").read_text())


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; `contenders` is who meets whom, by class."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.offline", description=__doc__)
    parser.add_argument(
        "--model", default="llama-135m", help=f"directory, demo, or one of {', '.join(SHAPES)}"
    )
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--long-prompt-tokens", type=int, default=1024, help="0: no long prompt")
    parser.add_argument("--peers", default="transformers", help=f"of {','.join(contenders.PEERS)}")
    parser.add_argument(
        "--tokenwire",
        nargs="+",
        default=["dtype=float32", "dtype=bfloat16", "quantization=int8", "quantization=int4"],
        metavar="NAME=VALUE,...",
        help="options of this engine, once for each class of precisions to compare (default: %(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--patience-s", type=float, default=5.0, help="longest to wait, for each sample, for a quiet machine"
    )
    parser.add_argument("--output", type=Path, help="without its suffix (default: in benchmarks/results)")
    options = parser.parse_args(arguments)
    try:
        ours = [contenders.tokenwire(given) for given in options.tokenwire]
        options.contenders = contenders.contenders(ours, options.peers.split(","))
    except ValueError as error:
        parser.error(str(error))
    return options


def runs(options: argparse.Namespace) -> list[Run]:
    """What every contender is given in a round."""
    short = [Run(count, options.prompt_tokens, options.output_tokens) for count in options.requests]
    if not options.long_prompt_tokens:
        return short
    return [*short, Run(1, options.long_prompt_tokens, options.output_tokens)]


def measure(
    model: Path, precision_class: str, members: list[Contender], options: argparse.Namespace
) -> Comparison:
    """Load the contenders of a class, and run all of them, alternating, after one short warm-up."""
    vocab_size = json.loads((model / "config.json").read_text())["vocab_size"]
    chooser = random.Random(0)
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for member in members:
            print(f"{precision_class}: starting {member.name}", file=sys.stderr, flush=True)
            workers[member.name] = stack.enter_context(contenders.start(member, model, options.threads))
        memory = stack.enter_context(
            Worker([sys.executable, "-m", "benchmarks.peers.bandwidth", str(options.threads)], {})
        )
        entrants = [
            Entrant(m.name, m.peer, m.precision, worker.ready["software"], worker.start_seconds)
            for m, worker in zip(members, workers.values(), strict=True)
        ]
        comparison = Comparison(precision_class, entrants, runs(options))
        for run in comparison.runs:
            for worker in workers.values():
                worker.ask(prompts=prompts(run, vocab_size, chooser), output_tokens=WARM_UP_TOKENS)
        for number in range(options.rounds):
            print(f"{precision_class}: round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
            order = list(workers) if number % 2 == 0 else list(reversed(workers))
            for run in comparison.runs:
                asked = prompts(run, vocab_size, chooser)
                if run is not comparison.single:
                    one_round(run, workers, order, asked, options.patience_s)
                    continue
                # A virtual machine's bandwidth changes with its neighbours, so it is measured on both sides.
                before = read_bandwidth(memory, options.patience_s)
                one_round(run, workers, order, asked, options.patience_s)
                comparison.read_bytes_per_s += [before, read_bandwidth(memory, options.patience_s)]
    return comparison


def read_bandwidth(memory: Worker, patience_s: float) -> float:
    """Bytes that all threads read in a second."""
    answer, _ = quietly(memory.ask, memory.cpu_seconds, patience_s)
    rate: float = answer["bytes_per_s"]
    return rate


def one_round(
    run: Run, workers: dict[str, Worker], order: list[str], prompts: list[list[int]], patience_s: float
) -> None:
    """Give the same prompts to every contender, one after the other, and note what they took."""
    tokens: dict[str, list[list[int]]] = {}
    for name in order:
        ask = partial(workers[name].ask, prompts=prompts, output_tokens=run.output_tokens)
        answer, disturbance = quietly(ask, workers[name].cpu_seconds, patience_s)
        run.disturbance.setdefault(name, []).append(disturbance)
        run.seconds.setdefault(name, []).append(answer["seconds"])
        run.first_token_seconds.setdefault(name, []).append(answer["first_token_seconds"])
        tokens[name] = answer["tokens"]
    ours = tokens[next(iter(workers))]
    for name in workers:
        run.agreement.setdefault(name, []).append(agreement(tokens[name], ours))


def prompts(run: Run, vocab_size: int, chooser: random.Random) -> list[list[int]]:
    """Random prompts, never the same, so that no prefix cache helps."""
    return [[chooser.randrange(3, vocab_size) for _ in range(run.prompt_tokens)] for _ in range(run.requests)]


if __name__ == "__main__":
    main()
