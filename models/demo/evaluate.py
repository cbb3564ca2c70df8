"""Score the demo model through the running services: `python -m models.demo.evaluate`.

Starts an engine and a tokenizer service, asks every question as a chat over one connection, greedily and many
at a time, and prints how many answers are exactly right.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from models.demo.questions import Question, question_sets, trained_sets
from tokenwire import AsyncClient, UnavailableError
from tokenwire.options import Tool

_MOST_AT_ONCE = 128
_START_TIMEOUT_S = 120.0
_MAX_TOKENS = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", help="host:port of a running tokenizer service (else one is started)")
    parser.add_argument("--model", help="checkpoint to serve (else the bundled one)")
    parser.add_argument("--dtype", default="auto", help="the engine's, where one is started")
    parser.add_argument("--quantization", help="the engine's, where one is started")
    parser.add_argument("--limit", type=int, default=1000, help="most questions of each held-out set")
    arguments = parser.parse_args()
    options = ["--dtype", arguments.dtype]
    if arguments.quantization:
        options += ["--quantization", arguments.quantization]
    services = (
        contextlib.nullcontext(arguments.tokenizer)
        if arguments.tokenizer
        else _services(arguments.model, options)
    )
    with services as address:
        table = asyncio.run(_evaluate(address, arguments.limit))
    Console().print(table)


async def _evaluate(address: str, limit: int) -> Table:
    table = Table("task", "right", "asked", "share", "seconds", title="tokenwire-demo, greedy, exact answers")
    async with AsyncClient(address) as client:
        await _wait_until_served(client)
        for sets in (question_sets(limit), trained_sets(min(limit, 100))):
            for name, questions in sets.items():
                begin = time.perf_counter()
                right = await _count_right(client, questions)
                seconds = time.perf_counter() - begin
                share = f"{right / len(questions):.1%}"
                table.add_row(name, str(right), str(len(questions)), share, f"{seconds:.1f}")
            table.add_section()
    return table


async def _count_right(client: AsyncClient, questions: list[Question]) -> int:
    free_slots = asyncio.Semaphore(_MOST_AT_ONCE)

    async def is_right(question: Question) -> bool:
        async with free_slots:
            answer = await client.chat(
                question.messages,  # type: ignore[arg-type]  # written for templates, same keys
                tools=[_function(tool["function"]) for tool in question.tools],
                temperature=0.0,
                max_tokens=_MAX_TOKENS,
            )
        return question.accepts(answer.text, [(call.name, call.arguments) for call in answer.tool_calls])

    return sum(await asyncio.gather(*map(is_right, questions)))


def _function(function: dict[str, str]) -> Tool:
    return {key: function[key] for key in ("name", "description", "parameters") if key in function}  # type: ignore[return-value]


async def _wait_until_served(client: AsyncClient) -> None:
    """Return once the model is served; raises what the last attempt raised after two minutes."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            if await client.models(timeout=10.0):
                return
        except UnavailableError:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.2)


@contextlib.contextmanager
def _services(model: str | None, options: list[str]) -> Iterator[str]:
    """An engine with `model`, or the bundled one, and a tokenizer service; the tokenizer's address."""
    engine, tokenizer = (f"{_free_port()}" for _ in range(2))
    command = [sys.executable, "-m", "tokenwire_services.launcher"]
    commands = (
        [*command, "engine", *([model] if model else []), "--port", engine, *options],
        [*command, "tokenizer", "--engine", f"127.0.0.1:{engine}", "--port", tokenizer],
    )
    processes = [subprocess.Popen(arguments, stdout=subprocess.DEVNULL) for arguments in commands]
    try:
        yield f"127.0.0.1:{tokenizer}"
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=30)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
