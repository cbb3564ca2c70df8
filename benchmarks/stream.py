"""What a streamed token costs on its way out: gateway and tokenizer, over HTTP, beside a replaying engine.

    python -m benchmarks.stream --streams 1 64 256

CPU time is the operating system's account of each process. The load generator reads sockets and counts
events; it parses no JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks import machine
from benchmarks.ports import free_port

RESULTS = Path(__file__).parent / "results"
CHECKPOINT = Path(__file__).parent.parent / "models" / "demo" / "checkpoint"


@dataclass(slots=True)
class Point:
    """One number of streams."""

    streams: int
    tokens_per_s: float
    cpu_us_per_token: dict[str, float]
    first_token_ms: float
    """Median time from sending a request to its first byte of text, the engine's step included."""


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
        for name, arguments in {
            "engine": [*replay, "--port", str(engine), "--step-ms", str(self.step_ms)],
            "tokenizer": [*command, "tokenizer", "--engine", f"127.0.0.1:{engine}", "--port", str(tokenizer)],
            "gateway": [
                *command,
                "gateway",
                "--tokenizer",
                f"127.0.0.1:{tokenizer}",
                "--port",
                str(self.port),
            ],
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
        seconds = {}
        for name in ("gateway", "tokenizer"):
            times = psutil.Process(self.processes[name].pid).cpu_times()
            seconds[name] = times.user + times.system
        return seconds


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


async def stream(port: int, tokens: int) -> float:
    """One streamed completion; seconds to its first text."""
    body = json.dumps(
        {
            "model": "replay",
            "prompt": "Say something.",
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
        }
    ).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    begin = time.perf_counter()
    writer.write(head.encode() + body)
    first = 0.0
    tail = b""
    while chunk := await reader.read(65536):
        if not first and b"data: " in chunk:
            first = time.perf_counter() - begin
        tail = (tail + chunk)[-64:]
    writer.close()
    if b"data: [DONE]" not in tail:
        raise RuntimeError(f"the stream ended with {tail!r}")
    return first


async def measure(stack: Stack, streams: int, tokens: int) -> Point:
    """`streams` concurrent completions of `tokens` tokens each."""
    await asyncio.gather(*(stream(stack.port, 8) for _ in range(streams)))  # connections, caches
    before, begin = stack.cpu_seconds(), time.perf_counter()
    first = await asyncio.gather(*(stream(stack.port, tokens) for _ in range(streams)))
    seconds, after = time.perf_counter() - begin, stack.cpu_seconds()
    total = streams * tokens
    return Point(
        streams,
        total / seconds,
        {name: (after[name] - before[name]) / total * 1e6 for name in after},
        statistics.median(first) * 1000,
    )


def table(points: list[Point]) -> str:
    """The report as a Markdown table."""
    lines = [
        "| streams | tokens/s | gateway, CPU µs/token | tokenizer, CPU µs/token | both | first token, ms |",
        "|---|---|---|---|---|---|",
    ]
    for point in points:
        gateway, tokenizer = point.cpu_us_per_token["gateway"], point.cpu_us_per_token["tokenizer"]
        lines.append(
            f"| {point.streams} | {point.tokens_per_s:.0f} | {gateway:.1f} | {tokenizer:.1f} "
            f"| {gateway + tokenizer:.1f} | {point.first_token_ms:.1f} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write it beside its raw data."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--tokens", type=int, default=256, help="tokens per stream")
    parser.add_argument("--step-ms", type=float, default=20.0, help="pause between two engine steps")
    parser.add_argument("--output", type=Path, default=RESULTS / "stream")
    options = parser.parse_args(arguments)

    async def run(stack: Stack) -> list[Point]:
        await wait_until_served(stack.port)
        return [await measure(stack, streams, options.tokens) for streams in options.streams]

    with Stack(options.step_ms) as stack:
        points = asyncio.run(run(stack))
    host = machine.describe()
    command = (
        f"python -m benchmarks.stream --streams {' '.join(map(str, options.streams))}"
        f" --tokens {options.tokens} --step-ms {options.step_ms:g}"
    )
    report: dict[str, Any] = {
        "machine": host,
        "command": command,
        "points": [asdict(point) for point in points],
    }
    options.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    text = (
        f"# Streaming\n\nCost of the token path, the engine replaying one token a request every"
        f" {options.step_ms:g} ms; `{command}`\n\n"
        f"{', '.join(f'{key} {value}' for key, value in host.items())}\n\n{table(points)}\n"
    )
    options.output.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
