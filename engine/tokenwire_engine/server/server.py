"""The engine's gRPC server and the core thread beside it, from loading to the end.

The server listens before the model is loaded: until it is, health says NOT_SERVING and calls are answered
with UNAVAILABLE and when to retry. The core thread loads the model, warms it up and then runs steps; all
else happens on the asyncio thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tokenwire.duplex.sessions import Sessions
from tokenwire.listen import listen
from tokenwire.malformed import RefuseMalformed
from tokenwire.status import StatusError, unavailable
from tokenwire.v1 import engine_admin_pb2, engine_admin_pb2_grpc, engine_pb2, engine_pb2_grpc
from tokenwire_engine.config import EngineConfig
from tokenwire_engine.core.commands import Shutdown
from tokenwire_engine.core.core import EngineCore
from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.kv_cache.host_tier import HostTier
from tokenwire_engine.kv_cache.prefix_cache import PrefixCache
from tokenwire_engine.metrics.prometheus import EngineCollector, MetricsServer, make_registry
from tokenwire_engine.metrics.recorder import Recorder
from tokenwire_engine.runner.base import ModelInfo, Progress, Runner
from tokenwire_engine.scheduler.outputs import Outputs
from tokenwire_engine.scheduler.policy import make_policy
from tokenwire_engine.scheduler.scheduler import Scheduler, SchedulerLimits
from tokenwire_engine.server.admin import EngineAdminServicer
from tokenwire_engine.server.dispatch import Dispatcher
from tokenwire_engine.server.drain import Drainer
from tokenwire_engine.server.kv_events import KvEvents
from tokenwire_engine.server.model import ServedModel
from tokenwire_engine.server.servicer import EngineServicer, Serving
from tokenwire_engine.server.session import Session
from tokenwire_engine.server.startup import StartupClock
from tokenwire_engine.structured.compiler import GrammarCompiler

if TYPE_CHECKING:
    from tokenwire.duplex.server import CallServer

logger = logging.getLogger(__name__)

RunnerLoader = Callable[[EngineConfig, Progress], Runner]

SERVICE = engine_pb2.DESCRIPTOR.services_by_name["Engine"].full_name
SESSION_METHOD = f"/{SERVICE}/Session"
ADMIN_SERVICE = engine_admin_pb2.DESCRIPTOR.services_by_name["EngineAdmin"].full_name
RETRY_WHILE_LOADING_S = 1.0
STOP_GRACE_S = 0.5
"""How long calls may take to end once they were told to."""
CPU_DELIVERY_INTERVAL_MS = 20
"""Where computing and sending want the same CPUs: about what it takes to draw a screen."""
CORE_GRACE_S = 1.0
"""How long the core thread may take to come back from the step, or from loading."""

GRPC_OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    # A second engine on the same port is an error, not a silent share of the traffic.
    ("grpc.so_reuseport", 0),
    # A peer whose machine is gone is noticed within half a minute, and its requests are cancelled.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Peers may ask for us, however little there is to say.
    ("grpc.http2.max_ping_strikes", 0),
)


class EngineServer:
    """One engine process's server. `start`, then `ready`, then perhaps `drain`, then `stop`; or `failed`,
    whenever that is.

    Attributes:
        port: where it listens, known after `start`.
        session_socket: where it serves sessions, too, if it does.
        startup: how long the phases of loading took, complete when it is ready.
        metrics_port: where its metrics are served, if they are, known after `start`.
        failed: resolves with the error when the model cannot be loaded or the core has died.
    """

    def __init__(self, config: EngineConfig, load_runner: RunnerLoader, progress: Progress) -> None:
        self.port = 0
        self.session_socket = config.session_socket
        self.metrics_port: int | None = None
        self._config = config
        self._load_runner = load_runner
        self.startup = StartupClock(progress)
        self._serving: Serving | None = None
        self._refusal: StatusError | None = unavailable("the model is loading", RETRY_WHILE_LOADING_S)
        self._stopping = False
        self._health = health.aio.HealthServicer()
        self._recorder = Recorder()
        self._collector = EngineCollector(self._recorder)
        self._metrics: MetricsServer | None = None
        self._socket: CallServer | None = None
        self._thread = threading.Thread(target=self._run_core, name="engine-core", daemon=True)

    async def start(self) -> None:
        """Listen, and begin to load the model.

        Raises:
            OSError: when the address cannot be listened on.
        """
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self.failed: asyncio.Future[Exception] = self._loop.create_future()
        self._grpc = grpc.aio.server(interceptors=[RefuseMalformed()], options=GRPC_OPTIONS)
        servicer = EngineServicer(self._get_serving)
        engine_pb2_grpc.add_EngineServicer_to_server(servicer, self._grpc)
        engine_admin_pb2_grpc.add_EngineAdminServicer_to_server(
            EngineAdminServicer(self._get_serving), self._grpc
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        reflection.enable_server_reflection(
            (SERVICE, ADMIN_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._grpc
        )
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self.port = listen(self._grpc, self._config.host, self._config.port)
        if self._config.metrics_port is not None:
            registry = make_registry(self._collector)
            self._metrics = MetricsServer(registry, self._config.metrics_host, self._config.metrics_port)
            self.metrics_port = self._metrics.port
        if self.session_socket is not None:
            self._socket = await _serve_sessions(self.session_socket, servicer)
        await self._grpc.start()
        self._thread.start()

    async def ready(self) -> None:
        """Wait until the model answers requests.

        Raises:
            Exception: what kept it from being loaded.
        """
        await asyncio.wait((self._ready, self.failed), return_when=asyncio.FIRST_COMPLETED)
        if self.failed.done():
            raise self.failed.result()

    async def drain(self, timeout_s: float) -> None:
        """Admit no more requests, let those there are go on for so long, and hand back what is left. Returns
        early when the engine fails meanwhile."""
        if self._serving is not None:
            with contextlib.suppress(StatusError):
                await self._serving.drainer.drain(timeout_s)

    async def stop(self) -> bool:
        """End all calls with UNAVAILABLE, stop listening and let the core thread finish. False: the core
        thread did not come back in time, and the process had better end without it."""
        self._stopping = True
        self._refuse(unavailable("the engine is shutting down", RETRY_WHILE_LOADING_S))
        await self._health.enter_graceful_shutdown()
        stopping = [self._grpc.stop(STOP_GRACE_S)]
        if self._socket is not None:
            stopping.append(self._socket.stop(STOP_GRACE_S))
        await asyncio.gather(*stopping)
        if self._serving is not None:
            self._serving.core.send(Shutdown())
            if self._serving.model.grammars is not None:
                self._serving.model.grammars.close()
        await asyncio.to_thread(self._thread.join, CORE_GRACE_S)
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.close)
        return not self._thread.is_alive()

    def _get_serving(self) -> Serving:
        if self._refusal is not None:
            raise self._refusal.again()
        assert self._serving is not None
        return self._serving

    def _refuse(self, error: StatusError) -> None:
        """Answer all calls, those that are open too, with an error."""
        self._refusal = error
        if self._serving is not None:
            self._serving.dispatcher.fail_all(error)

    async def _set_admitting(self, admits: bool) -> None:
        kinds = health_pb2.HealthCheckResponse
        await self._set_health(kinds.SERVING if admits else kinds.NOT_SERVING)

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        await self._health.set("", status)
        await self._health.set(SERVICE, status)

    # On the core thread.

    def _run_core(self) -> None:
        try:
            runner = self._load_runner(self._config, self.startup)
            self.startup("warming up")
            runner.warm_up()
            runner.pin_thread()
            self.startup.finish()
            scheduler = self._make_scheduler(runner.info)
            interval_s = self._delivery_interval_s(runner.info)
            core = EngineCore(scheduler, runner, self._deliver_soon, self._config.overlap, interval_s)
        except Exception as error:
            logger.debug("the model was not loaded", exc_info=True)
            self._on_loop(partial(self._on_failed, error))
            return
        self._on_loop(partial(self._on_loaded, core, runner.info))
        try:
            core.run()
            runner.close()
        except Exception as error:
            logger.exception("the core thread died")
            self._on_loop(partial(self._on_failed, error))

    def _make_scheduler(self, info: ModelInfo) -> Scheduler:
        limits = SchedulerLimits(
            max_running=self._config.max_running,
            max_step_tokens=info.max_step_tokens,
            max_model_len=info.max_model_len,
            adapts_step=self._config.max_step_tokens is None,
            windows=info.windows,
        )
        pool = BlockPool(info.num_blocks, info.block_size)
        host = HostTier(info.num_host_blocks) if info.num_host_blocks else None
        prefix_cache = PrefixCache(pool, info.windows, host) if self._config.prefix_cache else None
        observer = None if self._config.metrics_port is None else self._recorder
        return Scheduler(limits, pool, make_policy(self._config.policy), prefix_cache, observer=observer)

    def _delivery_interval_s(self, info: ModelInfo) -> float:
        chosen_ms = self._config.delivery_interval_ms
        if chosen_ms is None:
            chosen_ms = CPU_DELIVERY_INTERVAL_MS if info.device == "cpu" else 0
        return chosen_ms / 1000

    def _deliver_soon(self, outputs: Outputs) -> None:
        self._on_loop(partial(self._deliver, outputs))

    def _on_loop(self, callback: Callable[[], None]) -> None:
        """Call back on the asyncio thread. If it is gone, the process is ending, and so does this thread."""
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            sys.exit()

    # Back on the asyncio thread.

    def _on_loaded(self, core: EngineCore, info: ModelInfo) -> None:
        if self._stopping:
            core.send(Shutdown())
            return
        limit = self._config.max_running + self._config.max_waiting
        model = ServedModel(
            info=info,
            names=self._config.served_names or (info.name,),
            max_running=self._config.max_running,
            max_requests=limit,
            policy=self._config.policy,
            instance_id=uuid.uuid4().hex,
            created_unix_s=int(time.time()),
            grammars=GrammarCompiler(info.checkpoint, info.vocab_size, info.eos_token_ids),
        )
        dispatcher = Dispatcher(core.send, limit, lambda: core.load.estimated_wait_s)
        most_ms = round(self._config.session_grace_s * 1000)
        sessions = Sessions(most_ms, lambda grace_ms: Session(grace_ms, model, dispatcher))
        drainer = Drainer(dispatcher, self._set_admitting)
        kv_events = KvEvents(core.send, self._config.prefix_cache)
        self._serving = Serving(model, core, dispatcher, sessions, drainer, kv_events)
        served = {"name": model.names[0], "dtype": info.dtype, "kv_cache_dtype": info.kv_cache_dtype}
        self._collector.loaded(served, lambda: core.load, self.startup.seconds)
        self._refusal = None
        self._becoming_ready = self._loop.create_task(self._become_ready())

    async def _become_ready(self) -> None:
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        self._ready.set_result(None)

    def _deliver(self, outputs: Outputs) -> None:
        if self._serving is not None:
            self._serving.dispatcher.deliver(outputs)

    def _on_failed(self, error: Exception) -> None:
        self._refuse(unavailable(f"the engine has failed: {error}"))
        self._becoming_unready = self._loop.create_task(self._health.enter_graceful_shutdown())
        self.failed.set_result(error)


async def _serve_sessions(path: str, servicer: EngineServicer) -> CallServer:
    # Needs a package of HTTP/2's, which an engine without a socket can be without.
    from tokenwire.duplex.server import serve_calls

    return await serve_calls(path, SESSION_METHOD, engine_pb2.SessionRequest, servicer.serve_session)
