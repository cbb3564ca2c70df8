"""The whole stack on one machine: time to first token and inter-token latency over HTTP, as streams grow.

Gateway, tokenizer and engine are the processes of `tokenwire serve`; the client reads sockets and parses no
JSON. Times are the client's: from sending a request to its first text, and between two pieces of text.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
from importlib.util import find_spec

from benchmarks import load
from benchmarks.gpu.checkpoints import write_checkpoint
from benchmarks.gpu.findings import Findings
from benchmarks.gpu.section import Context, SkippedError
from benchmarks.health import wait_until_served
from benchmarks.ports import free_port
from benchmarks.report import percentile

NEEDED = (
    "fastapi", "google.rpc", "grpc", "grpc_health", "grpc_reflection", "httptools", "jinja2", "llguidance",
    "opentelemetry", "orjson", "prometheus_client", "pydantic", "tokenizers", "tokenwire.v1", "typer",
    "uvicorn", "uvloop",
)  # fmt: skip
"""What the services import."""
MODEL = "Llama-3.2-1B"
PROMPT_BYTES = 512
"""Of a request; each is a token."""


def measure(context: Context, findings: Findings) -> None:
    """Streams at 1, 16, 64 and 256."""
    if missing := [name for name in NEEDED if not _is_there(name)]:
        raise SkippedError(f"Python packages are missing: {', '.join(missing)}")
    directory = write_checkpoint("tiny" if context.quick else MODEL, context.device)
    findings.note(f"serves {directory.name}; prompts of {PROMPT_BYTES} tokens, no prefix cache")
    findings.table(
        "Serving", "streams", "TTFT median, ms", "TTFT p99, ms", "ITL median, ms", "ITL p99, ms", "tokens/s"
    )
    ports = [free_port() for _ in range(3)]
    command = [sys.executable, "-m", "tokenwire_services.launcher", "serve", str(directory)]
    names = ("--port", "--tokenizer-port", "--engine-port")
    options = [f"{name}={port}" for name, port in zip(names, ports, strict=True)]
    options += ["--no-prefix-cache", f"--device={context.device}", "--served-model-name=random"]
    with subprocess.Popen([*command, *options], stdout=sys.stderr) as serving:

        def still_runs() -> None:
            if serving.poll() is not None:
                raise RuntimeError(f"the stack ended with code {serving.returncode}")

        try:
            asyncio.run(wait_until_served(ports[0], max(1.0, context.left_s), still_runs))
            for streams in (1, 3) if context.quick else (1, 16, 64, 256):
                if context.has_time(8.0, findings, f"{streams} streams"):
                    _measure(context, findings, ports[0], streams)
        finally:
            serving.terminate()


def _measure(context: Context, findings: Findings, port: int, streams: int) -> None:
    tokens, rounds = (40, 1) if context.quick else (200, 2)
    prompt = "x" * (16 if context.quick else PROMPT_BYTES)

    def run(rounds: int) -> load.Load:
        return asyncio.run(load.run(port, "random", "completions", streams, rounds, tokens, 0.5, prompt))

    run(1)
    loaded = run(rounds)
    findings.row(
        streams,
        1000 * statistics.median(loaded.first_text_s),
        1000 * percentile(loaded.first_text_s, 99),
        1000 * statistics.median(loaded.gaps_s) if loaded.gaps_s else None,
        1000 * percentile(loaded.gaps_s, 99) if loaded.gaps_s else None,
        loaded.tokens / loaded.seconds,
    )


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
