"""What a streamed token costs on its way out, through gateway and tokenizer, and through vLLM's API server.

    python -m benchmarks.stream --api chat completions --streams 1 64 256 1024 --vllm 64 256

Of chats and of completions. CPU time is the operating system's account of each process. An engine that
replays tokens answers a request's first token at once, so the time to it is what gateway and tokenizer add; a
gap between two tokens is the engine's step and what was added to it. Of vLLM it is the API server that is
measured, which does what gateway and tokenizer do; its engine, in processes of its own, runs a tiny model.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from benchmarks import load
from benchmarks.peers import vllm_server
from benchmarks.quiet import quietly
from benchmarks.report import RESULTS, percentile, table, write_report
from benchmarks.stack import CHECKPOINT, Stack, cpu_seconds

SERVICES = ("gateway", "tokenizer")
VLLM = "vLLM's API server"

Cpu = Callable[[], dict[str, float]]
"""CPU seconds that processes have used so far, by name."""


@dataclass(slots=True)
class Point:
    """One number of streams at one server."""

    server: str
    api: load.Api
    streams: int
    tokens_per_s: float
    events_per_token: float
    """More than 1 by the events that frame a stream's text; less where tokens came together."""
    cpu_us_per_token: dict[str, float]
    """By process."""
    first_token_ms: float
    """Median time from sending a request to its first text."""
    gap_ms: list[float]
    """Median and 99th percentile of the time between two pieces of a stream."""
    step_ms: float
    """Of the engine, where it is the replaying one; of vLLM's, none is set."""
    says: str
    """How the text of one stream begins."""
    disturbance: float = 0.0
    """Share of the CPUs that processes took which are no part of this."""

    @property
    def total(self) -> float:
        return sum(self.cpu_us_per_token.values())


async def measure(
    server: str,
    port: int,
    model: str,
    api: load.Api,
    streams: int,
    tokens: int,
    step_ms: float,
    cpu: Cpu,
    names: Sequence[str],
) -> Point:
    """`streams` at a time, twice, of `tokens` tokens each; what the processes of these names used."""
    says = await asyncio.to_thread(load.text, port, model, api, tokens)
    await load.run(port, model, api, streams, 1, 8, 0.1)  # connections, caches
    before = cpu()
    seen = await load.run(port, model, api, streams, 2, tokens, tokens * step_ms / 1000)
    after = cpu()
    return Point(
        server,
        api,
        streams,
        seen.tokens / seen.seconds,
        seen.events / seen.tokens,
        {name: (after[name] - before[name]) / seen.tokens * 1e6 for name in names},
        statistics.median(seen.first_text_s) * 1000,
        [statistics.median(seen.gaps_s) * 1000, percentile(seen.gaps_s, 99) * 1000],
        step_ms,
        says[:80],
    )


def _when_quiet(sample: Callable[[], Point], cpu: Cpu, patience_s: float) -> Point:
    """A sample that others disturbed little, if one can be had in time."""

    def used() -> float:
        return sum(cpu().values()) + time.process_time()

    point, disturbance = quietly(sample, used, patience_s)
    point.disturbance = disturbance
    return point


def measure_services(streams: int, options: argparse.Namespace) -> list[Point]:
    """Gateway and tokenizer, beside an engine of their own, by API."""
    step_ms = max(options.step_ms, 1000 * streams / options.tokens_per_s)
    points = []
    replay = [sys.executable, "-m", "benchmarks.replay_engine", str(CHECKPOINT), "--step-ms", str(step_ms)]
    with Stack(replay) as stack:
        stack.wait_until_served()
        for api in options.api:

            def sample(api: load.Api = api) -> Point:
                port, tokens, cpu = stack.port, options.tokens, stack.cpu_seconds
                return uvloop.run(
                    measure("tokenwire", port, "replay", api, streams, tokens, step_ms, cpu, SERVICES)
                )

            points.append(_when_quiet(sample, stack.cpu_seconds, options.patience_s))
    return points


def measure_vllm(options: argparse.Namespace) -> list[Point]:
    """vLLM's API server, at each number of streams that it is asked for, by API."""
    if not options.vllm:
        return []
    points = []
    with vllm_server.start(arguments=("--max-num-seqs", str(max(options.vllm)))) as server:

        def cpu() -> dict[str, float]:
            engine = sum(map(cpu_seconds, server.engine_core))
            return {VLLM: cpu_seconds(server.api_server), "engine": engine}

        for api, streams in itertools.product(options.api, options.vllm):

            def sample(api: load.Api = api, streams: int = streams) -> Point:
                tokens, step_ms = options.tokens, options.step_ms
                return uvloop.run(
                    measure("vllm", server.port, "peer", api, streams, tokens, step_ms, cpu, [VLLM])
                )

            points.append(_when_quiet(sample, cpu, options.patience_s))
    return points


def report(points: list[Point]) -> str:
    """The points as a Markdown table, with the ratio to vLLM where both were measured."""
    rows = []
    for point in points:
        costs = point.cpu_us_per_token
        peers = [other.total for other in points if other.server != point.server == "tokenwire"
                 and (other.api, other.streams) == (point.api, point.streams)]  # fmt: skip
        rows.append(
            [
                point.api,
                point.server,
                str(point.streams),
                f"{point.tokens_per_s:.0f}",
                f"{point.events_per_token:.2f}",
                *(f"{costs[name]:.1f}" if name in costs else "" for name in SERVICES),
                f"{point.total:.1f}",
                f"{point.total / peers[0]:.2f}" if peers else "",
                f"{point.first_token_ms:.1f}",
                f"{point.gap_ms[0]:.1f}",
                f"{point.gap_ms[1]:.1f}",
                f"{100 * point.disturbance:.0f} %",
            ]
        )
    header = ["API", "server", "streams", "tokens/s", "events/token"]
    header += ["gateway, CPU µs/token", "tokenizer, CPU µs/token", "all"]
    header += ["of vLLM's", "first token, ms", "gap, ms", "gap p99, ms", "disturbed by"]
    return table(header, rows)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write it beside its raw data."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=__doc__)
    parser.add_argument("--api", choices=load.APIS, nargs="+", default=load.APIS)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 64, 256, 1024])
    parser.add_argument("--vllm", type=int, nargs="*", default=[], help="streams to measure vLLM's server at")
    parser.add_argument("--tokens", type=int, default=256, help="tokens per stream")
    parser.add_argument("--step-ms", type=float, default=20.0, help="shortest pause between two engine steps")
    parser.add_argument("--tokens-per-s", type=float, default=12_800, help="most that the engine replays")
    parser.add_argument("--patience-s", type=float, default=60.0, help="to wait for a quiet machine")
    parser.add_argument("--output", type=Path, default=RESULTS / "stream")
    options = parser.parse_args(arguments)

    points = [point for streams in options.streams for point in measure_services(streams, options)]
    points = sorted(points + measure_vllm(options), key=lambda point: options.api.index(point.api))
    lists = {"api": options.api, "streams": options.streams, "vllm": options.vllm}
    given = " ".join(f"--{name} {' '.join(map(str, values))}" for name, values in lists.items() if values)
    command = (
        f"python -m benchmarks.stream {given}"
        f" --tokens {options.tokens} --step-ms {options.step_ms:g} --tokens-per-s {options.tokens_per_s:g}"
    )
    text = (
        f"The engine replays a request's first token at once, then one every {options.step_ms:g} ms, or every"
        f" {1000 / options.tokens_per_s:.2g} ms for each stream where that is longer.\n\n" + report(points)
    )
    write_report(options.output, "Streaming", command, text, {"points": [asdict(point) for point in points]})


if __name__ == "__main__":
    main()
