"""What the Unix sockets between the processes are worth: the whole stack with them, and over its ports alone.

    python -m benchmarks.sockets --streams 1 8 64 --rounds 8

Two stacks with the demo model, measured in turn. CPU time is counted for each of the engine's steps. Of the
engine it is that of its event loop, the main thread, and of the gRPC library's threads: those that have its
names, and all of Python's but the two busiest, which compute.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import grpc
import uvloop

from benchmarks import load
from benchmarks.quiet import quietly
from benchmarks.report import RESULTS, table, write_report
from benchmarks.stack import COMMAND, Stack
from tokenwire.v1 import engine_pb2, engine_pb2_grpc

_MODEL = "tokenwire-demo"
_LIBRARY_THREADS = ("event_engine", "grpc", "lifeguard")
_COMPUTING_THREADS = 2


@dataclass(slots=True)
class Sample:
    """One load of one stack."""

    sockets: bool
    streams: int
    event_loop_us: float
    """Of the engine, for each of its steps; so are the next three."""
    library_us: float
    tokenizer_us: float
    gateway_us: float
    tokens_per_s: float
    first_token_ms: float
    """Median time from sending a request to its first text."""
    disturbance: float = 0.0
    """Share of the CPUs that processes took which are no part of this."""


@dataclass(slots=True, frozen=True)
class Usage:
    """What a stack has used so far, in nanoseconds of CPU time."""

    steps: int
    event_loop: int
    threads: dict[int, tuple[str, int]]
    """The engine's others: name and time."""
    services: dict[str, int]

    @classmethod
    def of(cls, stack: Stack) -> Usage:
        """Now."""
        pids = {name: process.pid for name, process in stack.processes.items()}
        threads = _threads(pids.pop("engine"))
        _, event_loop = threads.pop(stack.processes["engine"].pid)
        services = {name: sum(spent for _, spent in _threads(pid).values()) for name, pid in pids.items()}
        with grpc.insecure_channel(f"127.0.0.1:{stack.engine_port}") as channel:
            steps = engine_pb2_grpc.EngineStub(channel).GetLoad(engine_pb2.GetLoadRequest()).steps
        return cls(steps, event_loop, threads, services)

    def library(self, before: Usage) -> int:
        """What the gRPC library's threads of the engine have used since."""
        spent = [
            (name, total - before.threads.get(thread, (name, 0))[1])
            for thread, (name, total) in self.threads.items()
        ]
        named = sum(used for name, used in spent if name.startswith(_LIBRARY_THREADS))
        python = sorted(used for name, used in spent if name.startswith("python"))
        return named + sum(python[:-_COMPUTING_THREADS])


def _threads(pid: int) -> dict[int, tuple[str, int]]:
    """Name and CPU time of each thread, by its number; the first one has the process's."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        spent = int((task / "schedstat").read_text().split()[0])
        found[int(task.name)] = (task / "comm").read_text().strip(), spent
    return found


def measure(stack: Stack, streams: int, tokens: int) -> Sample:
    """`streams` at a time, twice, of `tokens` tokens each."""
    uvloop.run(load.run(stack.port, _MODEL, "completions", streams, 1, 8, 0.1))  # connections, caches
    before = Usage.of(stack)
    seen = uvloop.run(load.run(stack.port, _MODEL, "completions", streams, 2, tokens, 0.05))
    after = Usage.of(stack)
    per_step = 1000 * (after.steps - before.steps)
    return Sample(
        stack.sockets,
        streams,
        (after.event_loop - before.event_loop) / per_step,
        after.library(before) / per_step,
        (after.services["tokenizer"] - before.services["tokenizer"]) / per_step,
        (after.services["gateway"] - before.services["gateway"]) / per_step,
        seen.tokens / seen.seconds,
        statistics.median(seen.first_text_s) * 1000,
    )


def measure_all(options: argparse.Namespace) -> list[Sample]:
    """Every number of streams, in every round at both stacks."""
    samples = []
    with ExitStack() as running:
        engine = [*COMMAND, "engine", "--no-prefix-cache"]
        stacks = [running.enter_context(Stack(engine, sockets)) for sockets in (False, True)]
        for stack in stacks:
            stack.wait_until_served()

        def cpu_seconds() -> float:
            return time.process_time() + sum(sum(stack.cpu_seconds().values()) for stack in stacks)

        for _ in range(options.rounds):
            for streams in options.streams:
                for stack in stacks:
                    sample, disturbance = quietly(
                        partial(measure, stack, streams, options.tokens), cpu_seconds, options.patience_s
                    )
                    sample.disturbance = disturbance
                    samples.append(sample)
            stacks.reverse()
    return samples


def report(samples: list[Sample]) -> str:
    """The medians as a Markdown table."""
    groups = defaultdict(list)
    for sample in samples:
        groups[sample.streams, sample.sockets].append(sample)
    rows = []
    for (streams, sockets), group in sorted(groups.items()):

        def median(name: str, group: list[Sample] = group) -> float:
            return float(statistics.median(getattr(sample, name) for sample in group))

        names = ("event_loop_us", "library_us", "tokenizer_us", "gateway_us", "tokens_per_s")
        rows.append(
            [
                str(streams),
                "sockets" if sockets else "ports",
                *(f"{median(name):.0f}" for name in names),
                f"{median('first_token_ms'):.1f}",
                f"{100 * median('disturbance'):.0f} %",
            ]
        )
    header = ["streams", "sessions over", "engine's event loop, CPU µs/step", "its gRPC threads"]
    header += ["tokenizer", "gateway", "tokens/s", "first token, ms", "disturbed by"]
    return table(header, rows)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write it beside its raw data."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sockets", description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--tokens", type=int, default=256, help="tokens per stream")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument(
        "--patience-s", type=float, default=20.0, help="to wait for a quiet machine, a sample"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "sockets")
    options = parser.parse_args(arguments)

    samples = measure_all(options)
    streams = " ".join(map(str, options.streams))
    command = "python -m benchmarks.sockets"
    command += f" --streams {streams} --tokens {options.tokens} --rounds {options.rounds}"
    data = {"samples": [asdict(sample) for sample in samples]}
    write_report(options.output, "Unix sockets between the processes", command, report(samples), data)


if __name__ == "__main__":
    main()
