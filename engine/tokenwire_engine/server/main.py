"""The engine process, from its configuration to its exit status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys

import uvloop

from tokenwire.address import authority
from tokenwire_engine import garbage, threads
from tokenwire_engine.config import EngineConfig
from tokenwire_engine.runner.base import Progress, Runner
from tokenwire_engine.server.progress import StatusPipe
from tokenwire_engine.server.server import EngineServer

logger = logging.getLogger(__name__)

LEAVE_S = 3.0
"""How long it may take, at most, that requests are handed back and their peers have heard of it."""


def run(config: EngineConfig) -> int:
    """Serve until SIGTERM or SIGINT, then drain; the exit status. 1 when the address or the model is not to
    be had, or the device is lost: one line on stderr says which."""
    status, core_is_back = uvloop.run(_serve(config))
    if not core_is_back:
        # The core thread is somewhere in the device's library, which cannot be interrupted and does not
        # survive the interpreter's end.
        sys.stderr.flush()
        os._exit(status)
    return status


def print_kernels(config: EngineConfig) -> int:
    """Write what would compute a model here, one operator a line; the exit status."""
    threads.configure()
    from tokenwire_engine.runner.device import describe_kernels_for

    try:
        lines = describe_kernels_for(config)
    except ValueError as error:
        return _failure(error)
    print("\n".join(lines))
    return 0


async def _serve(config: EngineConfig) -> tuple[int, bool]:
    """The exit status, and whether the core thread has ended."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    progress = StatusPipe(config.status_fd)
    server = EngineServer(config, _load_runner, progress)
    try:
        await server.start()
    except OSError as error:
        return _failure(error), True
    announcing = asyncio.create_task(_announce(server, progress, config))
    waiting = asyncio.create_task(stopped.wait())
    await asyncio.wait((waiting, server.failed), return_when=asyncio.FIRST_COMPLETED)
    announcing.cancel()
    waiting.cancel()
    if not server.failed.done():
        stopped.clear()
        await _drain(server, config.drain_timeout_s, hurry=stopped)
    status = _failure(server.failed.result()) if server.failed.done() else 0
    return status, await server.stop()


async def _drain(server: EngineServer, timeout_s: float, hurry: asyncio.Event) -> None:
    """Let requests go on for a while, less if `hurry` is set, and hand back those that are left. A step that
    takes longer than it should is not waited for."""
    draining = asyncio.create_task(server.drain(timeout_s))
    hurrying = asyncio.create_task(hurry.wait())
    await asyncio.wait((draining, hurrying), timeout=timeout_s + LEAVE_S, return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    if draining.done():
        await draining
        return
    draining.cancel()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(server.drain(0.0), LEAVE_S)


async def _announce(server: EngineServer, progress: StatusPipe, config: EngineConfig) -> None:
    await server.ready()
    progress.ready(server.port)
    if config.status_fd is None:  # nobody supervises it, and shows what it reports
        address = authority(config.host, server.port)
        print(f"tokenwire engine: {address} is {server.startup.summary()}", file=sys.stderr)


def _load_runner(config: EngineConfig, progress: Progress) -> Runner:
    progress("importing PyTorch")
    num_threads = threads.configure()
    if line := threads.shortage(num_threads):
        logger.info(line)
    # Imports torch, which takes seconds: here, on the core thread, while the server listens already.
    from tokenwire_engine.runner.background import BackgroundRunner
    from tokenwire_engine.runner.load import load_runner

    runner = load_runner(config, progress)
    garbage.tune()
    # A CPU's launches compute; a GPU's only queue the work.
    return BackgroundRunner(runner) if config.overlap and runner.info.device == "cpu" else runner


def _failure(error: Exception) -> int:
    """Say in one line why the process ends."""
    message = " ".join(str(error).split())
    if not isinstance(error, (OSError, ValueError, RuntimeError)):
        message = f"{type(error).__name__}: {message}"
    print(f"tokenwire engine: {message}", file=sys.stderr)
    return 1
