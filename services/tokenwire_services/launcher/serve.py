"""`tokenwire serve`: engine, tokenizer and gateway on one machine, as supervised processes.

The launcher itself loads nothing that a model needs: it turns one set of options into command lines and
shows what the processes say.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import secrets
import shlex
import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console

import tokenwire
from tokenwire.address import authority
from tokenwire_services.launcher.command_line import command_line
from tokenwire_services.launcher.ports import PortError, Ports, check_ports
from tokenwire_services.launcher.process import ProcessSpec
from tokenwire_services.launcher.reporter import PlainReporter, TerminalReporter
from tokenwire_services.launcher.supervisor import supervise
from tokenwire_services.launcher.workers import worker_specs

if TYPE_CHECKING:
    from tokenwire_engine.config import EngineConfig
    from tokenwire_services.gateway.config import GatewayConfig
    from tokenwire_services.tokenizer.config import TokenizerConfig

API_KEY_VARIABLE = "TOKENWIRE_API_KEY"
_MOST_TOKENIZER_THREADS = 8


def serve(engine: EngineConfig, tokenizer: TokenizerConfig, gateway: GatewayConfig) -> int:
    """Run all three until Ctrl-C or SIGTERM; the exit code."""
    ports = [
        Ports("--port", gateway.host, gateway.port),
        Ports("--tokenizer-port", tokenizer.host, tokenizer.port),
        Ports("--engine-port", engine.host, engine.port),
    ]
    for option, config, count in (
        ("--gateway-metrics-port", gateway, gateway.workers),
        ("--tokenizer-metrics-port", tokenizer, tokenizer.workers),
        ("--engine-metrics-port", engine, 1),
    ):
        if config.metrics_port is not None:
            ports.append(Ports(option, config.metrics_host, config.metrics_port, count))
    try:
        check_ports(ports)
    except PortError as error:
        print(f"tokenwire serve: {error}", file=sys.stderr)
        return 1
    return asyncio.run(_serve(engine, tokenizer, gateway))


async def _serve(engine: EngineConfig, tokenizer: TokenizerConfig, gateway: GatewayConfig) -> int:
    started = time.monotonic()
    specs = process_specs(engine, tokenizer, gateway)
    names = [spec.name for spec in specs]
    reporter: PlainReporter | TerminalReporter
    if sys.stdout.isatty():
        reporter = TerminalReporter(Console(), names)
    else:
        reporter = PlainReporter(sys.stdout, names)

    async def announce() -> None:
        seconds = time.monotonic() - started
        url = f"http://{authority(_reachable(gateway.host), gateway.port)}"
        try:
            model = await _served_model(tokenizer.port)
        except tokenwire.TokenwireError:  # the tokenizer died just now: it is being restarted
            reporter.notice(f"ready after {seconds:.1f} s at {url}/v1")
            return
        reporter.notice(f"{model} is ready after {seconds:.1f} s at {url}/v1; try")
        reporter.notice(example_request(url, model, needs_key=bool(gateway.api_keys)))

    return await supervise("serve", specs, reporter, announce)


def process_specs(
    engine: EngineConfig, tokenizer: TokenizerConfig, gateway: GatewayConfig
) -> list[ProcessSpec]:
    """The processes, each needing those before it. Keys travel in the gateway's environment only."""
    common = {"PYTHONUNBUFFERED": "1", API_KEY_VARIABLE: None}
    threads = str(min(os.cpu_count() or 1, _MOST_TOKENIZER_THREADS))
    encoding = {
        "TOKENIZERS_PARALLELISM": "true",
        "RAYON_NUM_THREADS": os.environ.get("RAYON_NUM_THREADS", threads),
    }
    keys = {API_KEY_VARIABLE: " ".join(gateway.api_keys) or None}
    name = f"@tokenwire-{os.getpid()}-{secrets.token_hex(8)}"
    engine = dataclasses.replace(engine, session_socket=f"{name}-engine")
    (address,) = tokenizer.engines
    tokenizer = dataclasses.replace(
        tokenizer, engines=(f"{address},{engine.session_socket}",), session_socket=f"{name}-tokenizer"
    )
    gateway = dataclasses.replace(
        gateway, tokenizer=",".join([gateway.tokenizer, *tokenizer.session_sockets])
    )
    return [
        ProcessSpec("engine", command_line("engine", engine), common),
        *worker_specs("tokenizer", tokenizer, common | encoding),
        *worker_specs("gateway", gateway, common | keys),
    ]


def example_request(url: str, model: str, needs_key: bool) -> str:
    """A shell command that asks for an answer; a key is named by its variable, never shown."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "stream": True,
    }
    authorization = f' -H "Authorization: Bearer ${API_KEY_VARIABLE}"' if needs_key else ""
    return (
        f'curl -N {url}/v1/chat/completions -H "Content-Type: application/json"{authorization} '
        f"-d {shlex.quote(json.dumps(body))}"
    )


async def _served_model(tokenizer_port: int) -> str:
    async with tokenwire.AsyncClient(f"127.0.0.1:{tokenizer_port}") as client:
        return (await client.models(timeout=10.0))[0].name


def _reachable(host: str) -> str:
    """An address at which this machine reaches what listens on `host`."""
    return "127.0.0.1" if host in ("", "0.0.0.0", "::") else host
