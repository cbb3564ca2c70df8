"""What a streamed token costs on its way out, through gateway and tokenizer, and through vLLM's API server.

    python -m benchmarks.stream --streams 1 64 256 1024 --vllm 64 256

CPU time is the operating system's account of each process. An engine that replays tokens answers a request's
first token at once, so the time to it is what gateway and tokenizer add; a gap between two tokens is the
engine's step and what was added to it. Of vLLM it is the API server that is measured, which does what gateway
and tokenizer do; its engine, in processes of its own, runs a tiny model.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
import uvloop

from benchmarks import load
from benchmarks.peers import vllm_server
from benchmarks.ports import free_port
from benchmarks.report import RESULTS, percentile, table, write_report

CHECKPOINT = Path(__file__).parent.parent / "models" / "demo" / "checkpoint"
SERVICES = ("gateway", "tokenizer")
VLLM = "vLLM's API server"


@dataclass(slots=True)
class Point:
    """One number of streams at one server."""

    server: str
    streams: int
    tokens_per_s: float
    cpu_us_per_token: dict[str, float]
    """By process."""
    first_token_ms: float
    """Median time from sending a request to its first text."""
    gap_ms: list[float]
    """Median and 99th percentile of the time between two pieces of a stream."""

    @property
    def total(self) -> float:
        return sum(self.cpu_us_per_token.values())


@dataclass(slots=True)
class Stack:
    """Replaying engine, tokenizer and gateway as processes."""

    step_ms: float
    port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Stack:
        engine, tokenizer = free_port(), free_port()
        command = [sys.executable, "-m", "tokenwire_services.launcher"]
        replay = [sys.executable, "-m", "benchmarks.replay_engine", str(CHECKPOINT)]
        link = ["--tokenizer", f"127.0.0.1:{tokenizer}", "--port", str(self.port)]
        for name, arguments in {
            "engine": [*replay, "--port", str(engine), "--step-ms", str(self.step_ms)],
            "tokenizer": [*command, "tokenizer", "--engine", f"127.0.0.1:{engine}", "--port", str(tokenizer)],
            "gateway": [*command, "gateway", *link],
        }.items():
            self.processes[name] = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        return self

    def __exit__(self, *error: object) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            process.wait(timeout=30)

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time that each service has used so far."""
        return {name: _cpu_seconds(psutil.Process(self.processes[name].pid)) for name in SERVICES}


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def wait_until_served(port: int) -> None:
    """Return once the gateway's health is good; raise TimeoutError after a minute."""
    async with asyncio.timeout(60):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                status = await reader.readline()
                writer.close()
                if b" 200 " in status:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.1)


async def measure(
    server: str,
    port: int,
    model: str,
    streams: int,
    options: argparse.Namespace,
    cpu_seconds: Callable[[], dict[str, float]],
) -> Point:
    """`streams` at a time, twice, of `options.tokens` tokens each."""
    await load.run(port, model, streams, 1, 8, 0.1)  # connections, caches
    spread_s = options.tokens * options.step_ms / 1000
    before = cpu_seconds()
    seen = await load.run(port, model, streams, 2, options.tokens, spread_s)
    after = cpu_seconds()
    return Point(
        server,
        streams,
        seen.tokens / seen.seconds,
        {name: (after[name] - before[name]) / seen.tokens * 1e6 for name in after},
        statistics.median(seen.first_text_s) * 1000,
        [statistics.median(seen.gaps_s) * 1000, percentile(seen.gaps_s, 99) * 1000],
    )


def measure_services(options: argparse.Namespace) -> list[Point]:
    """Gateway and tokenizer, at each number of streams."""

    async def run(stack: Stack) -> list[Point]:
        await wait_until_served(stack.port)
        return [
            await measure("tokenwire", stack.port, "replay", streams, options, stack.cpu_seconds)
            for streams in options.streams
        ]

    with Stack(options.step_ms) as stack:
        return uvloop.run(run(stack))


def measure_vllm(options: argparse.Namespace) -> list[Point]:
    """vLLM's API server, at each number of streams that it is asked for."""
    if not options.vllm:
        return []
    with vllm_server.start() as server:

        def cpu_seconds() -> dict[str, float]:
            return {VLLM: _cpu_seconds(server.api_server)}

        async def run() -> list[Point]:
            return [
                await measure("vllm", server.port, "peer", streams, options, cpu_seconds)
                for streams in options.vllm
            ]

        return uvloop.run(run())


def report(points: list[Point]) -> str:
    """The points as a Markdown table, with the ratio to vLLM where both were measured."""
    rows = []
    for point in points:
        costs = point.cpu_us_per_token
        peers = [other.total for other in points if other.server != point.server == "tokenwire"
                 and other.streams == point.streams]  # fmt: skip
        rows.append(
            [
                point.server,
                str(point.streams),
                f"{point.tokens_per_s:.0f}",
                *(f"{costs[name]:.1f}" if name in costs else "" for name in SERVICES),
                f"{point.total:.1f}",
                f"{point.total / peers[0]:.2f}" if peers else "",
                f"{point.first_token_ms:.1f}",
                f"{point.gap_ms[0]:.1f}",
                f"{point.gap_ms[1]:.1f}",
            ]
        )
    header = ["server", "streams", "tokens/s", "gateway, CPU µs/token", "tokenizer, CPU µs/token", "all"]
    header += ["of vLLM's", "first token, ms", "gap, ms", "gap p99, ms"]
    return table(header, rows)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write it beside its raw data."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 64, 256, 1024])
    parser.add_argument("--vllm", type=int, nargs="*", default=[], help="streams to measure vLLM's server at")
    parser.add_argument("--tokens", type=int, default=128, help="tokens per stream")
    parser.add_argument("--step-ms", type=float, default=50.0, help="pause between two engine steps")
    parser.add_argument("--output", type=Path, default=RESULTS / "stream")
    options = parser.parse_args(arguments)

    points = measure_services(options) + measure_vllm(options)
    vllm = f" --vllm {' '.join(map(str, options.vllm))}" if options.vllm else ""
    command = (
        f"python -m benchmarks.stream --streams {' '.join(map(str, options.streams))}{vllm}"
        f" --tokens {options.tokens} --step-ms {options.step_ms:g}"
    )
    text = (
        f"The engine replays a token of each stream every {options.step_ms:g} ms, the first one at once.\n\n"
        + report(points)
    )
    write_report(options.output, "Streaming", command, text, {"points": [asdict(point) for point in points]})


if __name__ == "__main__":
    main()
