"""How busy one engine is: what it last said of itself, and what this process has done since.

An engine says how busy it is now and then, and a burst of requests comes at once. So of the requests at the
engine, this process's own are counted here and now, and only those of others are taken from what it said.
"""

from __future__ import annotations

import grpc

from tokenwire.v1 import engine_pb2, engine_pb2_grpc
from tokenwire_services.tokenizer.engine_session import Counts
from tokenwire_services.tokenizer.routing import Load

INTERVAL_MS = 200
"""Least time between two messages of an engine."""


class LoadView:
    """One engine's load."""

    def __init__(self, own: Counts) -> None:
        """`own` counts this process's requests at the engine."""
        self._own = own
        self._others = 0
        self._waiting = 0

    async def follow(self, stub: engine_pb2_grpc.EngineAsyncStub) -> None:
        """Follow what an engine says until the connection breaks, or at once if it says nothing."""
        call = stub.WatchLoad(engine_pb2.WatchLoadRequest(interval_ms=INTERVAL_MS))
        try:
            async for message in call:
                self.apply(message.load)
        except grpc.aio.AioRpcError:  # a broken connection is reported by the session's reader
            pass
        finally:
            call.cancel()
            self._others = self._waiting = 0

    def apply(self, load: engine_pb2.GetLoadResponse) -> None:
        """Note what the engine says."""
        self._waiting = load.waiting_requests
        self._others = max(0, load.running_requests + load.waiting_requests - self._own.num_live)

    def now(self, max_running: int) -> Load:
        """The load of an engine that computes `max_running` requests at a time (0: unknown)."""
        requests = self._own.num_live + self._others
        excess = max(0, requests - max_running) if max_running else 0
        return Load(requests, max(self._waiting, excess), self._own.num_requests)
