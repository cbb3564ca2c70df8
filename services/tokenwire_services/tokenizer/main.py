"""The tokenizer process: a gRPC server that serves as long as there is an engine behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from tokenwire.address import authority
from tokenwire.duplex.server import CallServer, serve_calls
from tokenwire.listen import listen
from tokenwire.malformed import RefuseMalformed
from tokenwire.v1 import tokenizer_pb2, tokenizer_pb2_grpc
from tokenwire_services.garbage import keep_what_exists
from tokenwire_services.metrics_port import serving_metrics
from tokenwire_services.tokenizer.config import TokenizerConfig
from tokenwire_services.tokenizer.engine_link import EngineLink
from tokenwire_services.tokenizer.engines import Engines
from tokenwire_services.tokenizer.metrics import metrics_of
from tokenwire_services.tokenizer.model import ModelFilesError
from tokenwire_services.tokenizer.service import TokenizerService

log = logging.getLogger(__name__)

SERVICE: str = tokenizer_pb2.DESCRIPTOR.services_by_name["Tokenizer"].full_name

_SESSION = f"/{SERVICE}/Session"
_SERVICES = ("", SERVICE)
"""Of health: whether any engine serves. Whether a certain one does is asked by its address."""
_SWITCH_INTERVAL_S = 0.0005
"""For which threads, which render large chats and the templates of requests, keep the event loop waiting each
time that it wants to go on; a tenth of Python's own."""
_SHUTDOWN_GRACE_S = 0.3
"""For calls to hear that the process is going away."""
_THREADS_GRACE_S = 1.0
"""For threads to end, once the server has."""


class StartError(Exception):
    """The process cannot start; says why in one line."""


def run(config: TokenizerConfig) -> int:
    """Serve until SIGTERM or SIGINT; returns the process's exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    # What may be left is a thread amid a long prompt, or a request's template, that nobody waits for and that
    # cannot be interrupted.
    last_resort = threading.Timer(_THREADS_GRACE_S, os._exit, (0,))
    last_resort.daemon = True

    async def serve_and_leave() -> None:
        await serve(config)
        last_resort.start()

    try:
        uvloop.run(serve_and_leave())
    except (StartError, ModelFilesError) as error:
        log.error("%s", error)
        return 1
    return 0


async def serve(config: TokenizerConfig, stop: asyncio.Event | None = None) -> None:
    """Serve until told to stop, by `stop` or else by a signal.

    Raises:
        StartError: the address cannot be listened on.
        ModelFilesError: the engine's tokenizer files cannot be served.
    """
    stop = stop or _stopped_by_signals()
    progress = _Progress(config.status_fd)
    status = health.HealthServicer()
    port = 0
    is_ready = False

    async def on_change(link: EngineLink) -> None:
        nonlocal is_ready
        await _set_health(status, (link.address,), link.is_serving)
        await _set_health(status, _SERVICES, engines.is_serving)
        if link.is_serving and not is_ready:
            is_ready = True
            keep_what_exists()
            progress.ready(port)

    engines = Engines(config, on_change)
    service = TokenizerService(engines, config)
    server = _make_server(service, status, config)
    addresses = [link.address for link in engines.links]
    await _set_health(status, (*_SERVICES, *addresses), serving=False)
    try:
        port = listen(server, config.host, config.port, config.reuse_port)
    except OSError as error:
        raise StartError(str(error)) from error
    with _serving_metrics(engines, config) as metrics:
        sessions = await _serve_sessions(service, config)
        await server.start()
        log.info(
            "listening on %s, waiting for the engine at %s",
            authority(config.host, port),
            " or ".join(addresses),
        )
        progress.waiting(port)
        linked = asyncio.create_task(engines.run())
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([linked, stopped], return_when=asyncio.FIRST_COMPLETED)
            if linked.done():
                await linked
        finally:
            if sessions is not None:
                sessions.close()
            await service.end_sessions()
            await engines.leave()
            for task in (linked, stopped):
                task.cancel()
            await asyncio.gather(linked, stopped, return_exceptions=True)
            stopping = [server.stop(_SHUTDOWN_GRACE_S)]
            if sessions is not None:
                stopping.append(sessions.stop(_SHUTDOWN_GRACE_S))
            await asyncio.gather(*stopping)
            await asyncio.to_thread(metrics.close)


def _stopped_by_signals() -> asyncio.Event:
    """Set by SIGTERM and SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _make_server(
    service: TokenizerService, status: health.HealthServicer, config: TokenizerConfig
) -> grpc.aio.Server:
    server = grpc.aio.server(
        interceptors=[RefuseMalformed()],
        options=[
            ("grpc.so_reuseport", int(config.reuse_port)),
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            # Peers may ask whether this process is still there, however little there is to say.
            ("grpc.http2.max_ping_strikes", 0),
        ],
    )
    tokenizer_pb2_grpc.add_TokenizerServicer_to_server(service, server)
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    return server


async def _serve_sessions(service: TokenizerService, config: TokenizerConfig) -> CallServer | None:
    """What serves sessions at a Unix socket, if they are to be.

    Raises:
        StartError: it cannot be listened on.
    """
    path = config.session_socket
    if path is None:
        return None
    request = tokenizer_pb2.TokenizerSessionRequest
    try:
        return await serve_calls(path, _SESSION, request, service.serve_session, config.max_message_bytes)
    except OSError as error:
        raise StartError(str(error)) from error


def _serving_metrics(engines: Engines, config: TokenizerConfig) -> contextlib.ExitStack:
    """What serves the metrics, if anything does, until it is closed.

    Raises:
        StartError: their address cannot be listened on.
    """
    serving = contextlib.ExitStack()
    if config.metrics_port is not None:
        try:
            metrics = metrics_of(engines)
            serving.enter_context(serving_metrics(metrics, config.metrics_host, config.metrics_port))
        except OSError as error:
            address = authority(config.metrics_host, config.metrics_port)
            raise StartError(f"cannot listen on {address} for metrics: {error.strerror}") from error
    return serving


async def _set_health(status: health.HealthServicer, services: Iterable[str], serving: bool) -> None:
    kinds = health_pb2.HealthCheckResponse
    for service in services:
        await status.set(service, kinds.SERVING if serving else kinds.NOT_SERVING)


class _Progress:
    """Tells whoever started this process how far its start is, one JSON object a line."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def waiting(self, port: int) -> None:
        """Calls are answered on `port`, with UNAVAILABLE until there is an engine."""
        self._write({"phase": "waiting for the engine", "port": port})

    def ready(self, port: int) -> None:
        """The last line: the first engine is connected."""
        self._write({"phase": "ready", "port": port})

    def _write(self, line: dict[str, object]) -> None:
        if self._fd is None:
            return
        try:
            os.write(self._fd, json.dumps(line).encode() + b"\n")
        except OSError:  # the reader is gone
            self._fd = None
