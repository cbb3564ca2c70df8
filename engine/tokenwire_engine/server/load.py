"""How busy the engine is, on the wire."""

from __future__ import annotations

from tokenwire.v1 import engine_pb2
from tokenwire_engine.core.load import Load


def load_to_proto(load: Load, num_sessions: int) -> engine_pb2.GetLoadResponse:
    """The answer to GetLoad."""
    return engine_pb2.GetLoadResponse(
        running_requests=load.running_requests,
        waiting_requests=load.waiting_requests,
        total_kv_blocks=load.total_kv_blocks,
        free_kv_blocks=load.free_kv_blocks,
        steps=load.steps,
        prompt_tokens=load.prompt_tokens,
        generated_tokens=load.generated_tokens,
        preemptions=load.preemptions,
        finished_requests=load.finished_requests,
        sessions=num_sessions,
    )
