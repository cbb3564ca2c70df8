"""`tokenwire drain`: let an engine come to an end with its requests, before it is stopped or replaced."""

from __future__ import annotations

import contextlib
import sys

import grpc

from tokenwire.channel import DIRECT
from tokenwire.errors import error_from_call
from tokenwire.v1 import engine_admin_pb2, engine_admin_pb2_grpc


def drain(engine: str, timeout_s: float | None, undo: bool) -> int:
    """Drain the engine at an address, or let it admit requests again; the exit code.

    Args:
        timeout_s: how long requests may go on before they are handed back. None: until they end.
    """
    with grpc.insecure_channel(engine, options=[DIRECT]) as channel:
        admin = engine_admin_pb2_grpc.EngineAdminStub(channel)
        try:
            if undo:
                was_draining = admin.Undrain(engine_admin_pb2.UndrainRequest()).was_draining
                print("requests are admitted again" if was_draining else "the engine was not draining")
                return 0
            timeout_ms = None if timeout_s is None else round(timeout_s * 1000)
            with contextlib.suppress(KeyboardInterrupt):  # the engine drains on
                report = admin.Drain(engine_admin_pb2.DrainRequest(timeout_ms=timeout_ms))
                print(
                    f"drained in {report.duration_ms / 1000:.1f} s: {report.finished_requests} requests "
                    f"ended, {report.handed_back_requests} were handed back"
                )
        except grpc.RpcError as error:
            print(f"tokenwire drain: {engine}: {error_from_call(error)}", file=sys.stderr)
            return 1
    return 0
