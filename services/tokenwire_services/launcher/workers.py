"""Several processes of one service, which share its port: the kernel gives each connection to one of them.

A service's process runs on one core; `--workers` makes use of more. They share nothing else: each has its own
connection to what is behind it, its own requests, and its own metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tokenwire_services.launcher.command_line import command_line
from tokenwire_services.launcher.ports import PortError, Ports, check_ports
from tokenwire_services.launcher.process import ProcessSpec
from tokenwire_services.launcher.reporter import PlainReporter
from tokenwire_services.launcher.supervisor import supervise

if TYPE_CHECKING:
    from tokenwire_services.gateway.config import GatewayConfig
    from tokenwire_services.tokenizer.config import TokenizerConfig


def worker_specs(
    command: str, config: TokenizerConfig | GatewayConfig, environment: Mapping[str, str | None]
) -> list[ProcessSpec]:
    """The processes of a service: one, or several on one port."""
    if config.workers == 1:
        return [ProcessSpec(command, command_line(command, config), environment)]
    return [
        ProcessSpec(
            f"{command}-{index}", command_line(command, config.worker(index)), environment, service=command
        )
        for index in range(config.workers)
    ]


def run_workers(
    command: str, config: TokenizerConfig | GatewayConfig, environment: Mapping[str, str | None]
) -> int:
    """Run a service's workers until Ctrl-C or SIGTERM; the exit code."""
    ports = [Ports("--port", config.host, config.port)]
    if config.metrics_port is not None:
        ports.append(Ports("--metrics-port", config.metrics_host, config.metrics_port, config.workers))
    try:
        check_ports(ports)
    except PortError as error:
        print(f"tokenwire {command}: {error}", file=sys.stderr)
        return 1
    return asyncio.run(_run(command, config, environment))


async def _run(
    command: str, config: TokenizerConfig | GatewayConfig, environment: Mapping[str, str | None]
) -> int:
    specs = worker_specs(command, config, environment)
    reporter = PlainReporter(sys.stdout, [spec.name for spec in specs])

    async def announce() -> None:
        reporter.notice(f"{len(specs)} workers are ready on port {config.port}")
        if config.status_fd is not None:
            with contextlib.suppress(OSError):  # nobody reads any more
                line = json.dumps({"phase": "ready", "port": config.port})
                os.write(config.status_fd, line.encode() + b"\n")

    return await supervise(command, specs, reporter, announce)
